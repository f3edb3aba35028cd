//! What a pool costs: one small call, a million of them, and large arrays.

use ipc_channel::ipc::{IpcOneShotServer, IpcReceiver, IpcSender, channel};
use manycore::{Pool, Slice};
use manycore_benchmarks::Contest;
use std::hint::black_box;

const WORKERS: usize = 2;

/// Where this program is the peers' worker: the name of the server to connect to.
const CHANNEL_WORKER: &str = "MANYCORE_BENCH_CHANNEL";

fn nothing() {}

fn increment(x: u64) -> u64 {
    x + 1
}

/// A process that answers over ipc-channel: the least that a pool made of it could cost.
struct ChannelWorker {
    calls: IpcSender<u64>,
    answers: IpcReceiver<u64>,
    process: std::process::Child,
}

impl ChannelWorker {
    fn start() -> ChannelWorker {
        let (server, name) = IpcOneShotServer::<(IpcSender<u64>, IpcReceiver<u64>)>::new().expect("a server");
        let mut program = std::process::Command::new("/proc/self/exe");
        let process = program.env(CHANNEL_WORKER, name).spawn().expect("a worker");
        let (_, (calls, answers)) = server.accept().expect("a connection");
        ChannelWorker { calls, answers, process }
    }

    fn serve(server: String) {
        let connection = IpcSender::connect(server).expect("a server");
        let ((calls, received), (answer, answers)) = (channel().expect("a channel"), channel().expect("a channel"));
        connection.send((calls, answers)).expect("a server");
        while let Ok(call) = received.recv() {
            answer.send(increment(call)).expect("a caller");
        }
    }

    fn apply(&self, x: u64) -> u64 {
        self.calls.send(x).expect("a worker");
        self.answers.recv().expect("an answer")
    }
}

impl Drop for ChannelWorker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn round_trips(pool: &Pool) {
    const TIMES: u32 = 20_000;
    let peers = procspawn::Pool::new(WORKERS).expect("a pool");
    let channel = ChannelWorker::start();
    Contest::new("one small call, there and back", TIMES)
        .way("manycore: apply", || {
            (0..u64::from(TIMES)).for_each(|x| assert_eq!(pool.apply(increment, (x,)).expect("a result"), x + 1));
        })
        .way("manycore: apply_async, get", || {
            (0..u64::from(TIMES)).for_each(|x| {
                assert_eq!(pool.apply_async(increment, (x,)).and_then(|ticket| ticket.get()).expect("a result"), x + 1);
            });
        })
        .way("ipc-channel: a worker process", || {
            (0..u64::from(TIMES)).for_each(|x| assert_eq!(channel.apply(x), x + 1));
        })
        .way("procspawn: pool", || {
            (0..u64::from(TIMES)).for_each(|x| {
                assert_eq!(peers.spawn(x, increment).join().expect("a result"), x + 1);
            });
        })
        .run(5);
}

fn many(pool: &Pool) {
    const TIMES: u32 = 1_000_000;
    Contest::new("a million small calls", TIMES)
        .way("manycore: map, nothing there and back", || {
            assert_eq!(pool.starmap(nothing, (0..TIMES).map(|_| ())).expect("results").len(), TIMES as usize);
        })
        .way("manycore: map, a number there and back", || {
            assert_eq!(pool.map(increment, 0..u64::from(TIMES)).expect("results").len(), TIMES as usize);
        })
        .way("manycore: imap in chunks of 64", || {
            let results = pool.imap(increment, 0..u64::from(TIMES)).expect("results").chunksize(64).buffersize(8192);
            assert_eq!(results.filter(Result::is_ok).count(), TIMES as usize);
        })
        .run(5);
    const FEWER: u32 = 100_000;
    Contest::new("a hundred thousand small calls one by one", FEWER)
        .way("manycore: imap", || {
            assert_eq!(pool.imap(increment, 0..u64::from(FEWER)).expect("results").count(), FEWER as usize);
        })
        .way("manycore: apply_async, all, then get", || {
            let ask = |x| pool.apply_async(increment, (x,)).expect("a ticket");
            let tickets: Vec<_> = (0..u64::from(FEWER)).map(ask).collect();
            tickets.into_iter().for_each(|ticket| assert!(ticket.get().is_ok()));
        })
        .run(5);
}

fn arrays(pool: &Pool) {
    const ARRAYS: usize = 16;
    const LEN: usize = (64 << 20) / size_of::<f64>();
    let rows: Vec<Vec<f64>> = (0..ARRAYS).map(|n| vec![n as f64; LEN]).collect();
    let slices: Vec<Slice<f64>> = rows.iter().map(|row| row.clone().into()).collect();
    let mut target = vec![0f64; LEN];
    Contest::new("16 arrays of 64 MiB, there and back", 1)
        .way("memcpy of the same bytes, warm, twice", || {
            for row in rows.iter().chain(&rows) {
                target.copy_from_slice(row);
                black_box(&target);
            }
        })
        .way("manycore: imap over Slice<f64>", || {
            let results = pool.imap(|row: Slice<f64>| row, slices.iter().map(|row| row.slice(..))).expect("results");
            results.buffersize(3).for_each(|row| assert_eq!(row.expect("an array").len(), LEN));
        })
        .way("manycore: map over Slice<f64>", || {
            let results = pool.map(|row: Slice<f64>| row, slices.iter().map(|row| row.slice(..)));
            assert_eq!(results.expect("arrays").len(), ARRAYS);
        })
        .way("manycore: imap over Vec<f64>", || {
            let results = pool.imap(|row: Vec<f64>| row, rows.iter().cloned()).expect("results").buffersize(3);
            results.for_each(|row| assert_eq!(row.expect("an array").len(), LEN));
        })
        .run(5);
}

fn main() {
    if let Ok(server) = std::env::var(CHANNEL_WORKER) {
        return ChannelWorker::serve(server);
    }
    manycore::init();
    procspawn::init();
    let pool = Pool::with_workers(WORKERS).expect("a pool");
    let chosen = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    let all: [(&str, fn(&Pool)); 3] = [("round_trips", round_trips), ("many", many), ("arrays", arrays)];
    for (_, run) in all.iter().filter(|(name, _)| chosen.as_deref().is_none_or(|chosen| *name == chosen)) {
        run(&pool);
    }
}
