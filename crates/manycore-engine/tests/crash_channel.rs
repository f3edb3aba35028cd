//! Real processes that die as they send and receive, at every named point and at
//! random: what was sent arrives whole, nothing else does, and the living go on.

// A channel stands on a mapping, which a model does not have.
#[cfg(not(loom))]
#[path = "support/ends.rs"]
mod ends;
#[path = "support/harness.rs"]
mod harness;

#[cfg(loom)]
fn main() {
    harness::run(&[]);
}

#[cfg(not(loom))]
fn main() {
    tests::run_if_started();
    harness::run(tests::TESTS);
}

#[cfg(not(loom))]
mod tests {
    use super::ends::{self, receive, soon, try_receive};
    use super::harness::Test;
    use manycore_engine::os::inherit;
    use manycore_engine::process::{Child, Exit};
    use manycore_engine::shm::channel::{Channel, Got, Wait};
    use std::ffi::OsStr;
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    pub const TESTS: &[Test] = &[
        ("a_sender_killed_before_its_message_is_whole", || killed_sending("send-mid-payload", &[LARGE], false)),
        ("a_sender_killed_before_the_commit", || killed_sending("send-before-commit", &[SMALL, LARGE], false)),
        ("a_sender_killed_after_the_commit", || killed_sending("send-after-commit", &[SMALL, LARGE], true)),
        ("a_sender_killed_before_its_wake", || killed_sending("send-before-wake", &[SMALL, LARGE], true)),
        ("a_receiver_killed_before_the_commit", || killed_receiving("receive-before-commit", true)),
        ("a_receiver_killed_after_the_commit", || killed_receiving("receive-after-commit", false)),
        ("a_receiver_killed_before_its_wake", || killed_receiving("receive-before-wake", false)),
        ("sleepers_hear_what_a_dead_sender_sent", sleepers_hear_the_dead),
        ("sleepers_get_the_room_a_dead_receiver_made", sleepers_get_the_room),
        ("killed_asleep", killed_asleep),
        ("the_bell_is_put_right_after_a_death", the_bell_is_put_right),
        ("memory_of_the_dead_comes_back", memory_comes_back),
        ("random_kills", random_kills),
    ];

    const ROLE: &str = "MANYCORE_TEST_ROLE";
    const SMALL: usize = 9;
    const LARGE: usize = 30_000;

    /// Plays the role this process was started for, if it was.
    pub fn run_if_started() {
        let Ok(text) = std::env::var(ROLE) else { return };
        let (role, numbers) = text.split_once(':').unwrap();
        let numbers: Vec<i32> = numbers.split(',').map(|number| number.parse().unwrap()).collect();
        let [file, bell] = [0, 1].map(|at| inherit::duplicate(numbers[at]).unwrap());
        let channel = Channel::attach(file, bell).unwrap();
        let len = numbers[2] as usize;
        match role {
            "send" => send(&channel, len),
            "receive" => drop(receive(&channel)),
            "keep sending" => loop {
                send(&channel, len);
                send(&channel, SMALL);
            },
            "keep receiving" => loop {
                check(&receive(&channel));
            },
            // Holds everything it gets, for good.
            "hold" => {
                let mut held = Vec::new();
                loop {
                    match channel.try_receive(&mut Vec::new(), Wait::Until(None)) {
                        Ok(Got::Block(lease)) => held.push(lease),
                        _ => drop(channel.wait_message(None)),
                    }
                }
            }
            other => panic!("{other}"),
        }
        std::process::exit(0);
    }

    fn launch(channel: &Channel, role: &str, len: usize, point: Option<&str>) -> Child {
        let fds = [channel.file().as_raw_fd(), channel.bell().as_raw_fd()];
        let mut environment = vec![format!("{ROLE}={role}:{},{},{len}", fds[0], fds[1])];
        environment.extend(point.map(|point| format!("MANYCORE_FAIL_POINT={point}")));
        let environment: Vec<&OsStr> = environment.iter().map(OsStr::new).collect();
        let program = std::env::current_exe().unwrap();
        Child::launch(program.as_os_str(), &[OsStr::new(role)], &environment, &fds).unwrap()
    }

    fn was_killed(child: Child) {
        assert_eq!(child.wait().unwrap(), Exit::Signal(9));
    }

    fn kill(child: Child) {
        child.kill().unwrap();
        was_killed(child);
    }

    fn message(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at % 251) as u8 ^ len as u8).collect()
    }

    fn check(bytes: &[u8]) {
        assert!(bytes == message(bytes.len()), "a message is not whole");
    }

    fn send(channel: &Channel, len: usize) {
        ends::send(channel, &message(len));
    }

    fn both_kinds(test: impl Fn(Channel)) {
        [None, Some(1)].into_iter().for_each(|capacity| test(Channel::create(capacity).unwrap()));
    }

    fn killed_sending(point: &str, lengths: &[usize], arrives: bool) {
        for len in lengths {
            both_kinds(|channel| {
                was_killed(launch(&channel, "send", *len, Some(point)));
                assert_eq!(channel.waiting(), u32::from(arrives));
                if arrives {
                    assert_eq!(try_receive(&channel).unwrap(), message(*len));
                }
                for len in [SMALL, LARGE, LARGE + 1] {
                    send(&channel, len);
                    assert_eq!(receive(&channel), message(len));
                }
                assert_eq!(try_receive(&channel), None);
            });
        }
    }

    fn killed_receiving(point: &str, stays: bool) {
        for len in [SMALL, LARGE] {
            both_kinds(|channel| {
                send(&channel, len);
                was_killed(launch(&channel, "receive", 0, Some(point)));
                assert_eq!(channel.waiting(), u32::from(stays));
                if stays {
                    assert_eq!(try_receive(&channel).unwrap(), message(len));
                }
                for len in [SMALL, LARGE] {
                    send(&channel, len);
                    assert_eq!(receive(&channel), message(len));
                }
            });
        }
    }

    /// Two sleep. What a sender has sent that died before it woke anybody is received.
    fn sleepers_hear_the_dead() {
        let channel = Channel::create(None).unwrap();
        std::thread::scope(|scope| {
            let sleepers = [(); 2].map(|()| scope.spawn(|| receive(&channel)));
            was_killed(launch(&channel, "send", SMALL, Some("send-before-wake")));
            was_killed(launch(&channel, "send", SMALL, Some("send-after-commit")));
            sleepers.into_iter().for_each(|sleeper| assert_eq!(sleeper.join().unwrap(), message(SMALL)));
        });
    }

    fn sleepers_get_the_room() {
        let channel = Channel::create(Some(1)).unwrap();
        send(&channel, SMALL);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| send(&channel, LARGE));
            was_killed(launch(&channel, "receive", 0, Some("receive-after-commit")));
            sleeper.join().unwrap();
        });
        assert_eq!(try_receive(&channel).unwrap(), message(LARGE));
    }

    fn killed_asleep() {
        both_kinds(|channel| {
            let receivers = [(); 3].map(|()| launch(&channel, "receive", 0, None));
            std::thread::sleep(Duration::from_millis(20));
            receivers.into_iter().for_each(kill);
            let senders = [(); 3].map(|()| launch(&channel, "keep sending", LARGE, None));
            check(&receive(&channel));
            senders.into_iter().for_each(kill);
            (0..channel.waiting()).for_each(|_| check(&receive(&channel)));
            let other = launch(&channel, "send", SMALL, None);
            assert_eq!(receive(&channel), message(SMALL));
            assert_eq!(other.wait().unwrap(), Exit::Code(0));
        });
    }

    fn the_bell_is_put_right() {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let channel = Channel::create(None).unwrap();
        let bell = channel.watch().unwrap();
        let readable =
            || poll(&mut [PollFd::from_borrowed_fd(bell, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1;
        send(&channel, SMALL);
        was_killed(launch(&channel, "receive", 0, Some("receive-after-commit")));
        was_killed(launch(&channel, "send", SMALL, Some("send-before-commit")));
        send(&channel, SMALL);
        assert!(readable());
        receive(&channel);
        assert!(!readable());
        was_killed(launch(&channel, "send", SMALL, Some("send-after-commit")));
        send(&channel, SMALL);
        assert!(readable());
    }

    /// Megabytes that a process held when it was killed are used again, before as many
    /// new ones are.
    fn memory_comes_back() {
        const SIZE: usize = 1 << 20;
        let channel = Channel::create(None).unwrap();
        let used = || rustix::fs::fstat(channel.file()).unwrap().st_blocks * 512;
        let holder = launch(&channel, "hold", 0, None);
        for _ in 0..16 {
            send(&channel, SIZE);
        }
        while channel.waiting() != 0 {
            std::thread::yield_now();
        }
        kill(holder);
        let mut held = Vec::new();
        loop {
            let before = used();
            send(&channel, SIZE);
            let Ok(Got::Block(lease)) = channel.try_receive(&mut Vec::new(), Wait::Until(soon())) else { panic!() };
            held.push(lease);
            if used() < before + SIZE as i64 / 2 {
                return;
            }
            assert!(held.len() < 200, "{} bytes for {} messages of {SIZE}", used(), held.len());
        }
    }

    fn random_kills() {
        for round in 0..30u64 {
            both_kinds(|channel| {
                let senders = [(); 2].map(|()| launch(&channel, "keep sending", 5000, None));
                let receivers = [(); 2].map(|()| launch(&channel, "keep receiving", 0, None));
                std::thread::sleep(Duration::from_micros(2000 + 317 * round));
                // One of each kind dies first: the others must go on by themselves.
                let [sender, other] = senders;
                kill(sender);
                let [receiver, another] = receivers;
                kill(receiver);
                std::thread::sleep(Duration::from_micros(1000));
                kill(other);
                kill(another);
                (0..channel.waiting()).for_each(|_| check(&receive(&channel)));
                for len in [SMALL, LARGE] {
                    send(&channel, len);
                    assert_eq!(receive(&channel), message(len));
                }
            });
        }
    }
}
