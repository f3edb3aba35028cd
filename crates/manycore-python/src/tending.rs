//! What threads do for a pool while they wait, and its keeper when nobody waits: bury workers, serve results.

use manycore_engine::Result;
use manycore_engine::pool::Woken;
use manycore_engine::sync::Ordering;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::core::Core;
use crate::gate;

impl Core {
    pub(crate) fn keep_once(&self, py: Python<'_>) -> PyResult<()> {
        let seen = self.pool.events();
        self.serve(py);
        self.revive(py)?;
        self.pump(py)?;
        let hungry = (!self.feeds.is_dry()).then_some(seen);
        let awake = hungry.is_some() || self.feeds.has_kept() || self.feeds.has_wards();
        let called = || self.called.load(Ordering::Relaxed) != 0 || self.stopped.load(Ordering::Relaxed) != 0;
        self.wait(py, || {
            if called() {
                Ok(Woken::Ready)
            } else if awake {
                self.pool.wait_as_keeper(hungry, &called)
            } else {
                self.pool.doze()
            }
        })
    }

    /// Starts workers, where a closed pool has something to be run again and its last one was lost.
    pub(crate) fn revive(&self, py: Python<'_>) -> PyResult<()> {
        if self.closing.load(Ordering::Relaxed) != 0 && self.pool.has_waiting() {
            self.on_vacancy.call0(py)?;
        }
        Ok(())
    }

    /// Calls back for what has arrived, and for what failed before it was submitted.
    pub(crate) fn serve(&self, py: Python<'_>) {
        // Before the news are taken: nobody else sees that there is something to be done.
        let _in_hand = self.take_in_hand();
        for key in self.pool.take_news().into_iter().chain(self.feeds.take_again()) {
            self.feeds.serve(py, self, key);
        }
        self.feeds.serve_failed(py, self);
        if self.draining.load(Ordering::Relaxed) != 0 {
            self.pool.nudge();
        }
    }

    /// Whether anything can still be run: not so, if the pool has ended or its workers go.
    pub(crate) fn goes_on(&self) -> bool {
        self.pool.is_ours() && self.pool.broken().is_none() && self.drained.load(Ordering::SeqCst) == 0
    }

    /// Submits by `send` what a worker was lost with, as long as there are workers to run it.
    pub(crate) fn run_again(&self, py: Python<'_>, send: impl FnOnce() -> PyResult<bool>) -> PyResult<bool> {
        let _in_hand = self.take_in_hand();
        if self.drained.load(Ordering::SeqCst) != 0 {
            return Err(PyValueError::new_err("Pool not running: a worker was lost, and none is left to run the rest"));
        }
        let sent = send()?;
        if sent && self.closing.load(Ordering::Relaxed) != 0 {
            // The worker that was lost may have been the last one.
            self.on_vacancy.call0(py)?;
        }
        Ok(sent)
    }

    /// Waits by `call`, burying workers meanwhile, until it says Ready once.
    pub(crate) fn wait(&self, py: Python<'_>, call: impl Fn() -> Result<Woken> + Send + Sync) -> PyResult<()> {
        loop {
            // A signal's handler may have forked in the midst of a wait.
            self.check_ours()?;
            match gate::enter(py, || if self.pool.is_ours() { call() } else { Ok(Woken::Ready) })? {
                Woken::Ready => return self.check_ours(),
                Woken::Exits => self.bury_exited(py)?,
                Woken::Vacant => drop(self.on_vacancy.call0(py)?),
            }
        }
    }

    pub(crate) fn bury_exited(&self, py: Python<'_>) -> PyResult<()> {
        let mut seats = self.pool.take_exited().into_iter();
        while let Some(seat) = seats.next() {
            if let Err(error) = self.on_exit.call1(py, (seat,)) {
                // A signal's handler may raise in the midst of it; nobody may forget a death.
                self.pool.put_back_exited(std::iter::once(seat).chain(seats));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Collects what workers have finished; does not sleep.
    pub(crate) fn collect(&self) -> PyResult<()> {
        self.pool.collect().map_err(gate::raise)
    }

    /// Looks, without sleeping, for workers that have ended, and for seats to be filled.
    pub(crate) fn look_around(&self, py: Python<'_>) -> PyResult<()> {
        if self.pool.look_for_exits().map_err(gate::raise)? {
            self.bury_exited(py)?;
        }
        if self.pool.is_vacant() {
            self.on_vacancy.call0(py)?;
        }
        Ok(())
    }
}
