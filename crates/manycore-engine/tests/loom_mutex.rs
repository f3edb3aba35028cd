//! One lock, in every order. See "The mutex" in src/shm/README.md.

mod support;

use manycore_engine::Kind;
use manycore_engine::shm::mutex::{Mutex, Taken};
use support::{Shared, Till, model, process};

/// A mutex and what it protects.
#[derive(Default)]
struct Account {
    mutex: Mutex,
    value: Till,
}

impl Account {
    fn lock(&self) -> Taken {
        loop {
            match self.mutex.lock(None) {
                Err(error) if error.kind() == Kind::Interrupted => support::thread::yield_now(),
                other => return other.unwrap(),
            }
        }
    }

    fn deposit(&self) -> u64 {
        assert_eq!(self.lock(), Taken::Acquired);
        let value = self.value.add();
        self.mutex.unlock();
        value
    }
}

#[test]
fn one_at_a_time() {
    model(3, || {
        let account = Shared::new(Account::default());
        let other = process(&account, |account| [account.deposit(), account.deposit()]);
        account.deposit();
        other.join().unwrap();
        assert_eq!(account.deposit(), 4);
        assert!(!account.mutex.is_locked());
    });
}

/// Three want it: one that is woken may find it taken, and the third must not be forgotten.
#[test]
fn three_at_once() {
    model(2, || {
        let account = Shared::new(Account::default());
        let others = [(); 2].map(|()| process(&account, Account::deposit));
        account.deposit();
        others.into_iter().for_each(|other| assert!((1..=4).contains(&other.join().unwrap())));
        assert_eq!(account.deposit(), 4);
    });
}

/// A lock that another may release: it is released once.
#[test]
fn two_who_release() {
    model(3, || {
        let account = Shared::new(Account::default());
        assert_eq!(account.lock(), Taken::Acquired);
        let other = process(&account, |account| account.mutex.unlock_any());
        let mine = account.mutex.unlock_any();
        assert!(mine != other.join().unwrap());
    });
}

/// A waiter gets it by the release of a thread that has not taken it.
#[test]
fn released_by_another() {
    model(3, || {
        let account = Shared::new(Account::default());
        assert_eq!(account.lock(), Taken::Acquired);
        let waiter = process(&account, |account| account.lock());
        assert!(account.mutex.unlock_any());
        assert_eq!(waiter.join().unwrap(), Taken::Acquired);
    });
}

/// A mutex whose owner has died goes to one waiter, which is told; the other gets it from that one.
#[cfg(loom)]
#[test]
fn the_dead_are_relieved_once() {
    model(2, || {
        let account = Shared::new(Account::default());
        let mortal = process(&account, |account| {
            let taken = account.lock();
            account.value.add();
            manycore_engine::sync::die();
            taken
        });
        let heir = process(&account, |account| {
            let taken = account.lock();
            account.value.add();
            account.mutex.unlock();
            taken
        });
        let taken = account.lock();
        let value = account.value.add();
        account.mutex.unlock();
        let takes = [taken, mortal.join().unwrap(), heir.join().unwrap()];
        assert!((1..=3).contains(&value));
        // Both may have been through before the mortal came.
        let recovered = takes.iter().filter(|taken| **taken == Taken::Recovered).count();
        assert_eq!(recovered, usize::from(!account.mutex.is_locked()));
    });
}

/// The attempt that does not wait finds out about a death as well.
#[cfg(loom)]
#[test]
fn a_try_relieves_the_dead() {
    model(3, || {
        let account = Shared::new(Account::default());
        let mortal = process(&account, |account| {
            let taken = account.lock();
            account.value.add();
            manycore_engine::sync::die();
            taken
        });
        if let Some(taken) = account.mutex.try_lock() {
            let value = account.value.add();
            assert_eq!(taken == Taken::Recovered, value == 2);
            account.mutex.unlock();
        }
        let _ = mortal.join().unwrap();
        // The mortal's turn was the last, or was relieved.
        let _ = account.mutex.try_lock().unwrap();
        account.mutex.unlock();
    });
}
