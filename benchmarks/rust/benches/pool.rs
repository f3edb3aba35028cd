//! What a pool costs: one small call, a million of them, rows to count in, and large arrays.
//!
//! `cargo bench --bench pool` for all of it, `cargo bench --bench pool -- arrays` for a part.

use ipc_channel::ipc::{IpcOneShotServer, IpcReceiver, IpcSender, channel};
use manycore::sync::Shared;
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
    // Long enough that both sides have learned how long to look before they sleep.
    const TIMES: u32 = 4_000;
    let all = 0..u64::from(TIMES);
    let peers = procspawn::Pool::new(WORKERS).expect("a pool");
    let channel = ChannelWorker::start();
    Contest::new("one small call, there and back", TIMES)
        .way("manycore: apply", || {
            all.clone().for_each(|x| assert_eq!(pool.apply(increment, (x,)).expect("a result"), x + 1));
        })
        .way("manycore: apply_async, get", || {
            let call = |x| pool.apply_async(increment, (x,))?.get();
            all.clone().for_each(|x| assert_eq!(call(x).expect("a result"), x + 1));
        })
        .way("ipc-channel: a worker process", || {
            all.clone().for_each(|x| assert_eq!(channel.apply(x), x + 1));
        })
        .way("procspawn: pool", || {
            all.clone().for_each(|x| assert_eq!(peers.spawn(x, increment).join().expect("a result"), x + 1));
        })
        .run(15);
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
        .run(7);
    const FEWER: u32 = 10_000;
    Contest::new("ten thousand small calls, each a task of its own", FEWER)
        .way("manycore: imap", || {
            assert_eq!(pool.imap(increment, 0..u64::from(FEWER)).expect("results").count(), FEWER as usize);
        })
        .way("manycore: apply_async, all, then get", || {
            let ask = |x| pool.apply_async(increment, (x,)).expect("a ticket");
            let tickets: Vec<_> = (0..u64::from(FEWER)).map(ask).collect();
            tickets.into_iter().for_each(|ticket| assert!(ticket.get().is_ok()));
        })
        .run(21);
}

type Row = [i64; 5];

fn count(row: Row) -> u8 {
    row.into_iter().filter(|number| (4..=8).contains(number)).count() as u8
}

fn count_all(rows: Slice<Row>) -> Slice<u8> {
    rows.iter().map(|row| count(*row)).collect()
}

/// What no pool of processes can beat: threads, and nothing travels.
fn count_in_threads(rows: &[Row]) -> Vec<u8> {
    let mut counts = vec![0; rows.len()];
    let half = rows.len().div_ceil(WORKERS);
    std::thread::scope(|scope| {
        for (rows, counts) in rows.chunks(half).zip(counts.chunks_mut(half)) {
            scope.spawn(move || counts.iter_mut().zip(rows).for_each(|(place, row)| *place = count(*row)));
        }
    });
    counts
}

/// The tutorial's rows. A row is counted in about a nanosecond; its 40 bytes take longer to copy.
fn rows(pool: &Pool) {
    for (times, rounds) in [(200_000u32, 21), (20_000_000, 3)] {
        let rows: Vec<Row> =
            (0..i64::from(times)).map(|n| std::array::from_fn(|at| (n * 7 + at as i64 * 3) % 10)).collect();
        let slice = Slice::from(&rows[..]);
        let shared = Shared::from_slice(&rows).expect("shared rows");
        let expected: Vec<u8> = rows.iter().map(|row| count(*row)).collect();
        Contest::new(format!("counting in {times} rows"), times)
            .way("serial loop", || {
                black_box(black_box(&rows).iter().map(|row| count(*row)).collect::<Vec<_>>());
            })
            .way("manycore: map, row by row", || {
                assert!(pool.map(count, rows.iter().copied()).expect("counts") == expected);
            })
            .way("manycore: map, slices of 5000 rows", || {
                let counts = pool.map(count_all, slice.chunks_of(5000)).expect("counts");
                assert_eq!(counts.iter().map(|counts| counts.len()).sum::<usize>(), rows.len());
            })
            .way("manycore: map, 5000 shared rows a call", || {
                let shared = shared.clone();
                let count = manycore::closure!(move(shared) |start: usize| {
                    let mut rows = vec![[0i64; 5]; 5000.min(shared.len() - start)];
                    shared.read(start, &mut rows).expect("as many rows");
                    rows.into_iter().map(count).collect::<Slice<u8>>()
                });
                let counts = pool.map(count, (0..rows.len()).step_by(5000)).expect("counts");
                assert_eq!(counts.iter().map(|counts| counts.len()).sum::<usize>(), rows.len());
            })
            .way("two threads, nothing travels", || {
                assert_eq!(black_box(count_in_threads(black_box(&rows))).len(), rows.len());
            })
            .run(rounds);
    }
}

fn arrays(pool: &Pool) {
    const ARRAYS: usize = 16;
    const LEN: usize = (64 << 20) / size_of::<f64>();
    let slices: Vec<Slice<f64>> = (0..ARRAYS).map(|n| vec![n as f64; LEN].into()).collect();
    // Each round gives the next one what it got.
    let mut vectors: Vec<Vec<f64>> = (0..ARRAYS).map(|n| vec![n as f64; LEN]).collect();
    let mut target = vec![0f64; LEN];
    Contest::new("16 arrays of 64 MiB, there and back", 1)
        .way("memcpy of the same bytes, warm", || {
            for row in slices.iter().chain(&slices) {
                target.copy_from_slice(row);
                black_box(&target);
            }
        })
        .way("manycore: imap, Slice<f64>", || {
            let results = pool.imap(|row: Slice<f64>| row, slices.iter().map(|row| row.slice(..))).expect("results");
            results.buffersize(3).for_each(|row| assert_eq!(row.expect("an array").len(), LEN));
        })
        .way("manycore: map, Slice<f64>", || {
            let results = pool.map(|row: Slice<f64>| row, slices.iter().map(|row| row.slice(..)));
            assert_eq!(results.expect("arrays").len(), ARRAYS);
        })
        .way("manycore: map, Vec<f64>", || {
            let results = pool.map(|row: Vec<f64>| row, std::mem::take(&mut vectors)).expect("arrays");
            vectors = results;
            assert_eq!(vectors.len(), ARRAYS);
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
    let all: [(&str, fn(&Pool)); 4] =
        [("round_trips", round_trips), ("many", many), ("rows", rows), ("arrays", arrays)];
    for (_, run) in all.iter().filter(|(name, _)| chosen.as_deref().is_none_or(|chosen| *name == chosen)) {
        run(&pool);
    }
}
