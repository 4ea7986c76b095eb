//! One refresher, two requests and a vendor on the real cell, in every order of their steps.
//!
//! Each step is atomic to other threads. The walk covers all orders and all faults of vendor and
//! network: a failed dial, a lost request, a response lost after the old token was invalidated.
//! Known states are not walked again. Checks: [`World::check`] after each step, and
//! [`World::check_end`] once no step is left.

use std::collections::HashSet;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::slot::InFlight;
use super::*;
use crate::token::schedule::Deadline;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Dial {
        works: bool,
    },
    CloseToUnrepeatable,
    /// The last response arrived, or 2 s have passed.
    Drained {
        late: bool,
    },
    CloseToAll,
    /// The request is lost, or the vendor invalidates the old token and issues another.
    Exchange {
        arrives: bool,
    },
    Answer {
        arrives: bool,
    },
    Publish,
    Reopen,
    ReadRejection,
    /// The backoff has passed.
    Retry,
    Request(usize),
}

/// The refresher's next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refresher {
    Dial,
    CloseToUnrepeatable,
    Drain,
    CloseToAll,
    Exchange { first: bool },
    Answer { first: bool, issued: bool },
    Publish,
    Reopen { may_be_dead: bool },
    Idle,
}

enum Request {
    Look,
    Register(Arc<Slot>),
    Confirm(Arc<Slot>, InFlightGuard),
    Waiting,
    Written(u64, Option<InFlightGuard>),
    Judged(u64, Option<InFlightGuard>, bool),
    Answered { accepted: bool },
}

struct Client {
    reader: CellReader,
    replayability: Replayability,
    state: Request,
    rejected: u64,
    attempts: u32,
}

struct World {
    writer: CellWriter,
    refresher: Refresher,
    in_flight: Option<Arc<InFlight>>,
    fetches: u32,
    failed_dials: u32,
    hurried: u64,
    failing: bool,
    /// A rejection that the refresher has not read.
    reported: bool,
    /// A response was lost, or may have been.
    lost: bool,
    late: bool,
    /// The vendor's newest token, by number; the only valid one.
    issued: u64,
    /// The token number of each generation, from 1.
    published: Vec<u64>,
    clients: [Client; 2],
    /// Requests skip the second gate check after registering.
    skip_recheck: bool,
    /// The last fetch succeeds, to bound the walk.
    most_fetches: u32,
}

impl World {
    fn new(travellers: [Replayability; 2], most_fetches: u32, skip_recheck: bool) -> Self {
        let (writer, reader) = cell(Clock::System);
        writer.set_gated(true);
        writer.publish(token(1), FetchStatus::Settled);
        let clients = travellers.map(|replayability| Client {
            reader: reader.clone(),
            replayability,
            state: Request::Look,
            rejected: 0,
            attempts: 0,
        });
        Self {
            writer,
            refresher: Refresher::Dial,
            in_flight: None,
            fetches: 1,
            failed_dials: 0,
            hurried: 0,
            failing: false,
            reported: false,
            lost: false,
            late: false,
            issued: 1,
            published: vec![1],
            clients,
            skip_recheck,
            most_fetches,
        }
    }

    fn steps(&self) -> Vec<Step> {
        let last = self.fetches >= self.most_fetches;
        let either = |make: fn(bool) -> Step| match last {
            true => vec![make(true)],
            false => vec![make(true), make(false)],
        };
        let mut steps = match self.refresher {
            Refresher::Dial => either(|works| Step::Dial { works }),
            Refresher::CloseToUnrepeatable => vec![Step::CloseToUnrepeatable],
            Refresher::Drain => {
                let idle = self
                    .in_flight
                    .as_ref()
                    .is_none_or(|in_flight| in_flight.is_idle());
                vec![Step::Drained { late: !idle }]
            }
            Refresher::CloseToAll => vec![Step::CloseToAll],
            Refresher::Exchange { .. } => either(|arrives| Step::Exchange { arrives }),
            Refresher::Answer { issued: false, .. } => vec![Step::Answer { arrives: false }],
            Refresher::Answer { .. } => either(|arrives| Step::Answer { arrives }),
            Refresher::Publish => vec![Step::Publish],
            Refresher::Reopen { .. } => vec![Step::Reopen],
            Refresher::Idle => {
                let mut steps = Vec::new();
                steps.extend(self.reported.then_some(Step::ReadRejection));
                steps.extend((self.failing && !last).then_some(Step::Retry));
                steps
            }
        };
        let able = (0..self.clients.len()).filter(|index| self.clients[*index].can_step());
        steps.extend(able.map(Step::Request));
        steps
    }

    fn make(&mut self, step: Step) {
        self.refresher = match step {
            Step::Request(index) => return self.request(index),
            Step::Dial { works } => {
                self.writer.set_status(FetchStatus::Soon);
                self.failed_dials += u32::from(!works);
                match works {
                    true => Refresher::CloseToUnrepeatable,
                    false => Refresher::Reopen { may_be_dead: false },
                }
            }
            Step::CloseToUnrepeatable => {
                self.in_flight = self.writer.gatekeeper().narrow(Gate::Replayable);
                Refresher::Drain
            }
            Step::Drained { late } => {
                self.late |= late;
                Refresher::CloseToAll
            }
            Step::CloseToAll => {
                self.writer.gatekeeper().narrow(Gate::Shut);
                Refresher::Exchange { first: true }
            }
            Step::Exchange { arrives } => {
                self.issued += u64::from(arrives);
                Refresher::Answer {
                    first: matches!(self.refresher, Refresher::Exchange { first: true }),
                    issued: arrives,
                }
            }
            Step::Answer { arrives: true } => Refresher::Publish,
            Step::Answer { arrives: false } => {
                let first = matches!(self.refresher, Refresher::Answer { first: true, .. });
                self.lost = true;
                match first {
                    true => Refresher::Exchange { first: false },
                    false => Refresher::Reopen { may_be_dead: true },
                }
            }
            Step::Publish => {
                self.published.push(self.issued);
                self.failing = false;
                self.writer
                    .publish(token(self.generation()), FetchStatus::Settled);
                Refresher::Idle
            }
            Step::Reopen => {
                self.failing = true;
                let dead = self.refresher == Refresher::Reopen { may_be_dead: true };
                let suspect = dead || self.writer.is_suspect();
                self.writer
                    .gatekeeper()
                    .open(suspect && self.hurried < self.generation());
                self.writer.set_status(FetchStatus::Failed {
                    class: FailureClass::Transient,
                    next: Duration::MAX,
                });
                Refresher::Idle
            }
            Step::ReadRejection => self.read_rejection(),
            Step::Retry => self.fetch(),
        };
    }

    fn read_rejection(&mut self) -> Refresher {
        self.reported = false;
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(rejected) = pin!(self.writer.rejection()).poll(&mut context) else {
            panic!("a rejection was lost");
        };
        if rejected != self.generation() {
            return Refresher::Idle;
        }
        if self.writer.is_suspect() {
            self.hurried = rejected;
            return self.fetch();
        }
        assert!(self.failing, "a second fetch for a valid token");
        Refresher::Idle
    }

    fn fetch(&mut self) -> Refresher {
        self.fetches += 1;
        Refresher::Dial
    }

    fn request(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let state = std::mem::replace(&mut client.state, Request::Look);
        client.state = match state {
            Request::Look | Request::Waiting => client.look(),
            Request::Register(slot) => {
                let on_wire = slot.in_flight.enter();
                Request::Confirm(slot, on_wire)
            }
            Request::Confirm(slot, on_wire) => {
                match self.skip_recheck || client.reader.is_unmoved(&slot) {
                    true => Request::Written(slot.token.generation, Some(on_wire)),
                    false => Request::Look,
                }
            }
            Request::Written(generation, on_wire) => {
                client.attempts += 1;
                let accepted = self.published[generation as usize - 1] == self.issued;
                Request::Judged(generation, on_wire, accepted)
            }
            Request::Judged(generation, on_wire, accepted) => {
                drop(on_wire);
                if !accepted {
                    client.reader.reject(generation);
                    client.rejected = generation;
                    self.reported = true;
                }
                match accepted || client.replayability == Replayability::Unrepeatable {
                    true => Request::Answered { accepted },
                    false => Request::Look,
                }
            }
            Request::Answered { .. } => panic!("an answered request has no steps"),
        };
    }

    fn generation(&self) -> u64 {
        self.published.len() as u64
    }

    fn gate(&self) -> Gate {
        self.writer.shared.slot.load().as_ref().unwrap().gate
    }

    fn check(&self) -> Result<(), String> {
        for client in &self.clients {
            let rejected = matches!(
                client.state,
                Request::Judged(_, _, false) | Request::Answered { accepted: false }
            );
            let unrepeatable = client.replayability == Replayability::Unrepeatable;
            if rejected && unrepeatable && !self.lost && !self.late {
                return Err("an invalidated token on an unrepeatable request".to_owned());
            }
            if client.attempts > 1 + self.fetches {
                return Err(format!("{} attempts", client.attempts));
            }
        }
        let fetching = !matches!(
            self.refresher,
            Refresher::Dial | Refresher::CloseToUnrepeatable | Refresher::Idle
        );
        // A failed dial also leads to `Reopen`, with the gate still open.
        if !fetching && self.gate() != Gate::Open {
            return Err(format!("the gate is {:?} outside an exchange", self.gate()));
        }
        if !self.lost && self.fetches > 1 + self.failed_dials {
            return Err("a second fetch for one rejection".to_owned());
        }
        Ok(())
    }

    /// Checks a state without further steps.
    fn check_end(&self) -> Result<(), String> {
        if self.gate() != Gate::Open {
            return Err("the gate stays closed".to_owned());
        }
        for client in &self.clients {
            match (&client.state, client.replayability) {
                (Request::Answered { accepted: true }, _)
                | (Request::Answered { .. }, Replayability::Unrepeatable) => {}
                _ => return Err(format!("{:?} is never answered", client.replayability)),
            }
        }
        Ok(())
    }

    /// All state that later steps depend on.
    fn fingerprint(&self) -> String {
        let slot = self.writer.shared.slot.load_full().unwrap();
        let clients = self.clients.each_ref().map(|client| {
            let state = match &client.state {
                Request::Look => "look".to_owned(),
                Request::Waiting => "waiting".to_owned(),
                Request::Register(held) => format!("register {}", Arc::ptr_eq(held, &slot)),
                Request::Confirm(held, on_wire) => {
                    format!("confirm {} {on_wire:?}", Arc::ptr_eq(held, &slot))
                }
                Request::Written(generation, on_wire) => {
                    format!("written {generation} {on_wire:?}")
                }
                Request::Judged(generation, on_wire, accepted) => {
                    format!("judged {generation} {on_wire:?} {accepted}")
                }
                Request::Answered { accepted } => format!("answered {accepted}"),
            };
            let changed = client.reader.watch.has_changed();
            (state, changed, client.rejected, client.attempts)
        });
        format!(
            "{clients:?} {:?} {:?} {:?} {} {} {:?}",
            self.refresher,
            (
                self.fetches,
                self.failed_dials,
                self.hurried,
                self.failing,
                self.reported
            ),
            (self.lost, self.late, self.issued, &self.published),
            slot.suspect,
            slot.token.generation,
            (slot.gate, &slot.in_flight),
        )
    }
}

impl Client {
    fn can_step(&self) -> bool {
        match self.state {
            Request::Answered { .. } => false,
            Request::Waiting => self.reader.watch.has_changed().unwrap(),
            _ => true,
        }
    }

    /// Does the first half of `enter`, then starts the wait of `opening` or `newer`.
    fn look(&mut self) -> Request {
        self.reader.watch.mark_unchanged();
        match self.reader.look(self.replayability, self.rejected) {
            Ok(slot) => Request::Register(slot),
            Err(Entry::Pass(token, on_wire)) => Request::Written(token.generation, on_wire),
            Err(Entry::Closed | Entry::NoToken) => Request::Waiting,
        }
    }
}

fn token(generation: u64) -> Arc<Token> {
    Arc::new(Token {
        generation,
        injections: Box::new([]),
        deadline: Deadline::default(),
    })
}

/// The states, the end states, and the end states without loss after one fetch.
#[derive(Debug, Default)]
struct Walked {
    states: usize,
    ends: usize,
    smooth: usize,
}

/// The error is the failed check and the path to it.
fn walk(
    travellers: [Replayability; 2],
    most_fetches: u32,
    skip_recheck: bool,
) -> Result<Walked, String> {
    let mut seen = HashSet::new();
    let mut walked = Walked::default();
    let mut paths: Vec<Vec<Step>> = vec![Vec::new()];
    while let Some(path) = paths.pop() {
        let mut world = World::new(travellers, most_fetches, skip_recheck);
        for step in &path {
            world.make(*step);
        }
        if !seen.insert(world.fingerprint()) {
            continue;
        }
        let steps = world.steps();
        let mut checked = world.check();
        if steps.is_empty() {
            checked = checked.and_then(|()| world.check_end());
            walked.ends += 1;
            if !world.lost && !world.failing {
                walked.smooth += usize::from(world.fetches == 1);
            }
        }
        checked.map_err(|what| format!("{what}, after {path:?}"))?;
        paths.extend(steps.into_iter().map(|step| {
            let mut path = path.clone();
            path.push(step);
            path
        }));
    }
    walked.states = seen.len();
    Ok(walked)
}

#[test]
fn in_every_order_no_request_uses_an_invalidated_token_or_waits_for_ever() {
    use Replayability::{Replayable, Unrepeatable};
    for (travellers, most_fetches) in [
        ([Replayable, Unrepeatable], 3),
        ([Unrepeatable, Unrepeatable], 2),
        ([Replayable, Replayable], 2),
    ] {
        let walked =
            walk(travellers, most_fetches, false).unwrap_or_else(|error| panic!("{error}"));
        println!("{travellers:?}: {walked:?}");
        assert!(walked.states > 1000 && walked.ends > 10, "{walked:?}");
        assert!(walked.smooth > 0, "{walked:?}");
    }
}

/// Proves that the walk finds the race.
#[test]
fn without_the_second_gate_check_a_request_uses_an_invalidated_token() {
    let travellers = [Replayability::Replayable, Replayability::Unrepeatable];
    let found = walk(travellers, 1, true).unwrap_err();
    assert!(found.starts_with("an invalidated token"), "{found}");
}
