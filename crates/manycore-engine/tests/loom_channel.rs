//! Sending and receiving in every order. See "The channel" in src/shm/README.md.
//! A model in which somebody sleeps for ever is a deadlock, which loom reports; two
//! who are at one record at once are found by loom's cells.

#[path = "support/link.rs"]
mod link;
mod support;

use link::{Link, patiently};
#[cfg(loom)]
use manycore_engine::shm::conduit::Sent;
use support::{Shared, model, process};

/// A receiver goes to sleep while a sender sends.
#[test]
fn a_sleeper_hears_what_is_sent() {
    model(2, || {
        let link = Link::new(1, 3, None);
        let receiver = process(&link, |link| (link.receive(), link.receive()));
        link.send(1);
        link.send(2);
        assert_eq!(receiver.join().unwrap(), (1, 2));
    });
}

/// Two go to sleep while two messages are sent: a wake of one wakes one.
#[test]
fn two_sleepers_get_two_messages() {
    model(2, || two_to_two(|link| (1..3).for_each(|value| link.send(value))));
}

/// The same, when two send them.
#[test]
fn two_sleepers_and_two_senders() {
    model(1, || {
        two_to_two(|link| {
            let other = process(link, |link| link.send(1));
            link.send(2);
            other.join().unwrap();
        });
    });
}

fn two_to_two(send: impl Fn(&Shared<Link>)) {
    let link = Link::new(1, 3, None);
    let receivers = [0, 1].map(|_| process(&link, Link::receive));
    send(&link);
    let mut values = receivers.map(|receiver| receiver.join().unwrap());
    values.sort();
    assert_eq!(values, [1, 2]);
}

/// Every message turns to a new sheet, and the third needs one that was left.
#[test]
fn sheets_go_round() {
    model(2, || {
        let link = Link::new(2, 1, None);
        let receiver = process(&link, |link| [link.receive(), link.receive(), link.receive()]);
        (1..4).for_each(|value| link.send(value));
        assert_eq!(receiver.join().unwrap(), [1, 2, 3]);
    });
}

/// A sender waits for room, and a receiver for messages.
#[test]
fn a_full_channel_makes_room() {
    model(2, || {
        let link = Link::new(1, 3, Some(1));
        let receiver = process(&link, |link| (link.receive(), link.receive()));
        link.send(1);
        link.send(2);
        assert_eq!(receiver.join().unwrap(), (1, 2));
        assert_eq!(link.conduit().stream().waiting(), 0);
    });
}

/// Two wait for room, and there are as many places.
#[test]
fn two_senders_get_two_places() {
    model(2, || {
        let link = Link::new(1, 4, Some(1));
        link.send(0);
        let senders = [1, 2].map(|value| process(&link, move |link| link.send(value)));
        let mut values = [link.receive(), link.receive(), link.receive()];
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        values.sort();
        assert_eq!(values, [0, 1, 2]);
    });
}

/// Whoever waits for the bell finds a message each time, and silence after the last.
#[test]
fn the_bell_says_what_is_true() {
    model(2, || {
        let link = Link::new(1, 3, None);
        let sender = process(&link, |link| {
            link.send(1);
            link.send(2);
        });
        link.conduit().watch(&link.bell).unwrap();
        for value in [1, 2] {
            link.bell.wait();
            assert_eq!(link.try_receive(), Some(value));
        }
        sender.join().unwrap();
        assert!(!link.bell.is_readable());
    });
}

/// A `join` goes on when the last message is reported as done.
#[test]
fn the_end_of_work_is_heard() {
    model(2, || {
        let link = Link::new(1, 3, None);
        link.send(1);
        link.send(2);
        let workers = [0, 1].map(|_| {
            process(&link, |link| {
                link.receive();
                assert!(link.conduit().task_done());
            })
        });
        patiently(|| link.conduit().wait_done(None));
        assert_eq!(link.conduit().unfinished(), 0);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert!(!link.conduit().task_done());
    });
}

/// A sender dies in its turn, before or after the commit: the next one goes on, what
/// was committed arrives, and nothing else does.
#[cfg(loom)]
#[test]
fn a_death_in_a_turn_holds_nobody_up() {
    for committed in [false, true] {
        model(2, move || {
            let link = Link::new(1, 3, None);
            let dying = process(&link, move |link| {
                let turn = link.sending();
                if committed {
                    assert_eq!(link.commit(&turn, 7), Sent::Done(link.conduit().stream().sent()));
                }
                std::mem::forget(turn);
                manycore_engine::sync::die();
            });
            link.send(1);
            dying.join().unwrap();
            link.send(2);
            let mut values: Vec<u64> = std::iter::from_fn(|| link.try_receive()).collect();
            values.sort();
            assert_eq!(values, if committed { vec![1, 2, 7] } else { vec![1, 2] });
        });
    }
}
