//! Tickets that are awaited, in two runtimes that know nothing of each other or of us.

#![forbid(unsafe_code)]

mod support;

use manycore::{Pool, Result};
use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

fn square(x: u64) -> u64 {
    x * x
}

fn slow(x: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(5));
    x
}

fn die(_: u64) -> u64 {
    std::process::abort()
}

fn hang(_: u64) -> u64 {
    loop {
        std::thread::park();
    }
}

fn main() {
    manycore::init();
    support::run(support::tests![
        tokio_on_one_thread,
        tokio_on_many_threads,
        smol,
        smol_tasks,
        others_run_meanwhile,
        a_future_is_woken_and_not_polled_for_nothing,
        a_dropped_pool_wakes_futures,
        a_terminated_pool_wakes_futures,
        a_waker_may_drop_the_pool,
    ]);
}

fn tokio_on_one_thread() {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(calls());
}

fn tokio_on_many_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async { tokio::spawn(calls()).await.unwrap() });
    runtime.block_on(tokio_tasks());
}

fn smol() {
    smol::block_on(calls());
}

fn smol_tasks() {
    smol::block_on(tasks_of_smol());
}

async fn calls() {
    let pool = Pool::builder().workers(2).task_timeout(Duration::from_millis(500)).build().unwrap();
    assert_eq!(pool.apply_async(square, (3,)).unwrap().await.unwrap(), 9);
    assert_eq!(pool.apply_async(slow, (3,)).unwrap().await.unwrap(), 3);
    // More than there is room for: somebody must feed them while we wait for others.
    let many = pool.map_async(square, 0..50_000).unwrap();
    let tickets: Vec<_> = (0..3000).map(|x| pool.apply_async(square, (x,)).unwrap()).collect();
    assert_eq!(pool.starmap_async(|a: u64, b: u64| a + b, [(1, 2), (3, 4)]).unwrap().await.unwrap(), [3, 7]);
    for (x, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(ticket.await.unwrap(), square(x as u64));
    }
    assert_eq!(many.await.unwrap(), (0..50_000).map(square).collect::<Vec<_>>());
    assert!(pool.apply_async(die, (1,)).unwrap().await.unwrap_err().is_worker_lost());
    assert!(pool.apply_async(hang, (1,)).unwrap().await.unwrap_err().is_expired());
    let ticket = pool.apply_async(hang, (1,)).unwrap();
    assert!(ticket.cancel());
    assert!(ticket.await.unwrap_err().is_cancelled());
    assert_eq!(pool.apply_async(square, (4,)).unwrap().await.unwrap(), 16);
}

async fn tokio_tasks() {
    let pool = Arc::new(Pool::with_workers(2).unwrap());
    let call = |x| {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { pool.apply_async(slow, (x,))?.await })
    };
    for (x, task) in (0..200).map(call).collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(task.await.unwrap().unwrap(), x as u64);
    }
}

async fn tasks_of_smol() {
    let pool = Arc::new(Pool::with_workers(2).unwrap());
    let call = |x| {
        let pool = Arc::clone(&pool);
        smol::spawn(async move { pool.apply_async(slow, (x,))?.await })
    };
    for (x, task) in (0..200).map(call).collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), x as u64);
    }
}

/// While a ticket is awaited, the thread that awaits it does other things.
fn others_run_meanwhile() {
    let pool = Pool::with_workers(1).unwrap();
    let (sender, receiver) = smol::channel::bounded(1);
    let runtime = smol::LocalExecutor::new();
    let waits = runtime.spawn(async {
        let result = pool.apply_async(slow, (3,)).unwrap().await;
        sender.send(result).await.unwrap();
    });
    let mut turns = 0u64;
    let result: Result<u64> = smol::block_on(runtime.run(async {
        loop {
            if let Ok(result) = receiver.try_recv() {
                return result;
            }
            turns += 1;
            smol::future::yield_now().await;
        }
    }));
    smol::block_on(runtime.run(waits));
    assert_eq!(result.unwrap(), 3);
    assert!(turns > 1);
}

/// Counts how often it is woken.
#[derive(Default)]
struct Count(AtomicUsize, std::sync::Mutex<()>, std::sync::Condvar);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        let _lock = self.1.lock().unwrap();
        self.0.fetch_add(1, Ordering::SeqCst);
        self.2.notify_all();
    }
}

impl Count {
    fn wait(&self) {
        let lock = self.1.lock().unwrap();
        drop(self.2.wait_while(lock, |()| self.0.load(Ordering::SeqCst) == 0).unwrap());
    }
}

fn a_future_is_woken_and_not_polled_for_nothing() {
    let pool = Pool::with_workers(1).unwrap();
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(pool.apply_async(slow, (3,)).unwrap().into_future());
    assert!(future.as_mut().poll(&mut context).is_pending());
    // Others come and go meanwhile.
    assert_eq!(pool.map(square, 0..1000).unwrap().len(), 1000);
    count.wait();
    assert!(matches!(future.as_mut().poll(&mut context), Poll::Ready(Ok(3))));
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    // A result that is there needs no waking.
    let ticket = pool.apply_async(square, (3,)).unwrap();
    assert!(ticket.wait(None));
    assert!(matches!(pin!(ticket.into_future()).poll(&mut context), Poll::Ready(Ok(9))));
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
}

fn ends(end: impl FnOnce(Pool)) {
    let pool = Pool::with_workers(1).unwrap();
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(pool.apply_async(hang, (3,)).unwrap().into_future());
    assert!(future.as_mut().poll(&mut context).is_pending());
    end(pool);
    count.wait();
    assert!(matches!(future.as_mut().poll(&mut context), Poll::Ready(Err(error)) if error.is_closed()));
}

fn a_dropped_pool_wakes_futures() {
    ends(drop);
}

fn a_terminated_pool_wakes_futures() {
    let pool = std::cell::Cell::new(None);
    ends(|given| {
        given.terminate();
        pool.set(Some(given));
    });
}

/// Drops the pool when it is woken, in the pool's own thread.
struct Last(std::sync::Mutex<Option<Pool>>, Arc<Count>);

impl Wake for Last {
    fn wake(self: Arc<Self>) {
        let pool = self.0.lock().unwrap().take();
        drop(pool);
        Arc::clone(&self.1).wake();
    }
}

fn a_waker_may_drop_the_pool() {
    let pool = Pool::with_workers(1).unwrap();
    let mut future = pin!(pool.apply_async(slow, (3,)).unwrap().into_future());
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::new(Last(std::sync::Mutex::new(Some(pool)), Arc::clone(&count))));
    let mut context = Context::from_waker(&waker);
    assert!(future.as_mut().poll(&mut context).is_pending());
    count.wait();
    assert!(matches!(future.as_mut().poll(&mut context), Poll::Ready(Ok(3))));
}
