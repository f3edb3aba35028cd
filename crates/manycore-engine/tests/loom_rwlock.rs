//! One read-write lock, in every order. See "The read-write lock" in src/shm/README.md.

mod support;

use manycore_engine::shm::mutex::Taken;
use manycore_engine::shm::rwlock::{Place, RwLock};
use manycore_engine::{Error, Kind};
use support::{Shared, Till, model, process};

/// A lock and what it protects.
#[derive(Default)]
struct Account {
    lock: RwLock,
    value: Till,
}

fn patiently<T>(mut attempt: impl FnMut() -> Result<T, Error>) -> T {
    loop {
        match attempt() {
            Err(error) if error.kind() == Kind::Interrupted => support::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

impl Account {
    fn read(&self) -> (Place, Taken) {
        patiently(|| self.lock.read(None))
    }

    fn write(&self) -> Taken {
        patiently(|| self.lock.write(None))
    }

    fn look(&self) -> u64 {
        let (place, taken) = self.read();
        assert_eq!(taken, Taken::Acquired);
        let value = self.value.look();
        self.lock.leave(place);
        value
    }

    fn deposit(&self) -> u64 {
        assert_eq!(self.write(), Taken::Acquired);
        let value = self.value.add();
        self.lock.unlock();
        value
    }
}

/// The till is a cell that loom watches: a reader beside a writer would be a race.
#[test]
fn a_reader_and_a_writer() {
    model(3, || {
        let account = Shared::new(Account::default());
        let reader = process(&account, Account::look);
        account.deposit();
        assert!(reader.join().unwrap() <= 1);
        assert_eq!(account.look(), 1);
        assert!(!account.lock.is_read() && !account.lock.is_written());
    });
}

#[test]
fn two_writers() {
    model(3, || {
        let account = Shared::new(Account::default());
        let other = process(&account, Account::deposit);
        let mine = account.deposit();
        assert_eq!(mine + other.join().unwrap(), 3);
    });
}

/// A writer waits for two readers, and hears the last one leave.
#[test]
fn a_writer_hears_the_last_reader_leave() {
    model(2, || {
        let account = Shared::new(Account::default());
        let readers = [(); 2].map(|()| process(&account, Account::look));
        account.deposit();
        readers.into_iter().for_each(|reader| assert!(reader.join().unwrap() <= 1));
    });
}

/// Two read at the same time.
#[test]
fn readers_do_not_wait_for_each_other() {
    model(2, || {
        let account = Shared::new(Account::default());
        let (place, _) = account.read();
        let other = process(&account, Account::look);
        assert_eq!(other.join().unwrap(), 0);
        account.lock.leave(place);
        assert!(account.lock.try_write().is_some());
    });
}

/// A reader that died does not keep the writer out.
#[cfg(loom)]
#[test]
fn a_dead_reader_is_no_reader() {
    model(2, || {
        let account = Shared::new(Account::default());
        let mortal = process(&account, |account| {
            let (_place, _) = account.read();
            manycore_engine::sync::die();
        });
        assert_eq!(account.write(), Taken::Acquired);
        account.value.add();
        account.lock.unlock();
        mortal.join().unwrap();
        assert_eq!(account.write(), Taken::Acquired);
    });
}

/// A writer that died leaves a mark until somebody has written.
#[cfg(loom)]
#[test]
fn a_dead_writer_leaves_a_mark() {
    model(2, || {
        let account = Shared::new(Account::default());
        let mortal = process(&account, |account| {
            let _ = account.write();
            account.value.add();
            manycore_engine::sync::die();
        });
        let (place, taken) = account.read();
        let value = account.value.look();
        assert_eq!(taken == Taken::Recovered, value == 1);
        account.lock.leave(place);
        mortal.join().unwrap();
        assert_eq!(account.write(), Taken::Recovered);
        account.lock.unlock();
        assert_eq!(account.read().1, Taken::Acquired);
    });
}
