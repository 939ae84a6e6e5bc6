//! Going away: nothing new, what runs to its end, the rest cut at a deadline.

use std::collections::BTreeSet;

use async_channel::Receiver;

use super::{CUT_TIMEOUT, Event, Failure, IDLE_GRACE_MAX, Source, Supervisor, notify};
use crate::access_log::Writer;
use crate::admin::Readiness;
use crate::drain::Step;
use crate::runtime::{TimedOut, before};
use crate::supervisor::signals::Signal;
use crate::time::Deadline;
use crate::worker::{self, Command};

impl<S: Source> Supervisor<S> {
    /// Drains all workers, then ends what is left of this process in order.
    pub(super) async fn drain(self, events: &Receiver<Event>) -> Result<(), Failure> {
        let timeout = self.generation.drain_timeout;
        tracing::info!(
            ?timeout,
            "draining: nothing new is accepted; a second signal ends at once"
        );
        self.admin.set_readiness(Readiness::Draining);
        notify::stopping("Draining");
        let end = Deadline::within(timeout);
        let grace = Deadline::within(IDLE_GRACE_MAX.min(timeout / 2));
        let mut left = Left {
            workers: (0..self.workers.len()).collect(),
            cut: 0,
        };
        for (step, until) in [
            (Step::Started, Some(grace)),
            (Step::IdleEnds, Some(end)),
            (Step::Cut, None),
        ] {
            self.tell_all(|| Command::Drain(step));
            // What is cut has its time from when it is told, however late that was.
            let until = until.unwrap_or_else(|| Deadline::within(CUT_TIMEOUT));
            left.wait(events, until, &self.writer).await?;
            if left.workers.is_empty() {
                break;
            }
        }
        match left.cut {
            0 => tracing::info!("drained"),
            cut => tracing::warn!(
                connections = cut,
                "drained; connections were cut at the drain timeout"
            ),
        }
        if self
            .writer
            .finish(Deadline::within(CUT_TIMEOUT))
            .is_none_or(|lost| lost > 0)
        {
            tracing::warn!("the last access log records could not be written");
        }
        Ok(())
    }
}

/// Which workers still have connections. By number: one that is drained says so at each step.
struct Left {
    workers: BTreeSet<usize>,
    cut: usize,
}

impl Left {
    async fn wait(
        &mut self,
        events: &Receiver<Event>,
        until: Deadline,
        writer: &Writer,
    ) -> Result<(), Failure> {
        while !self.workers.is_empty() {
            match before(until, events.recv()).await {
                Ok(Ok(Event::Worker(worker::Event::Drained(number, cut)))) => {
                    if self.workers.remove(&number) {
                        self.cut += cut;
                    }
                }
                Ok(Ok(Event::Worker(worker::Event::Died(number, _)))) => {
                    self.workers.remove(&number);
                }
                Ok(Ok(Event::Signal(Signal::Stop))) => return Err(Failure::Interrupted),
                Ok(Ok(Event::Signal(Signal::Reopen))) => writer.reopen(),
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(TimedOut) => return Ok(()),
            }
        }
        Ok(())
    }
}
