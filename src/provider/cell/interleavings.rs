//! One refresher, two requests and a vendor on the real cell, in every order in which their steps can happen.
//!
//! Every step here is one that no other thread can see the middle of. The walk goes through all orders, and through all
//! that the vendor and the network can do: the dial fails, a request does not arrive, an answer is lost after the old
//! token was killed. States that were met before are not walked again. What is checked: [`World::check`], and
//! [`World::check_end`] once nothing can move.

use std::collections::HashSet;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::gate::Wire;
use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Dial {
        works: bool,
    },
    CloseToUnrepeatable,
    /// The last answer came, or two seconds are over.
    Drained {
        late: bool,
    },
    CloseToAll,
    /// What was sent reaches the vendor, who kills the old token and issues another; or it does not.
    Exchange {
        arrives: bool,
    },
    Answer {
        arrives: bool,
    },
    Publish,
    Reopen,
    /// Reads what the requests reported.
    ReadRejection,
    /// The pause after a failure is over.
    Retry,
    Request(usize),
}

/// What the refresher does next.
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
    Confirm(Arc<Slot>, OnWire),
    Waiting,
    Written(u64, Option<OnWire>),
    Judged(u64, Option<OnWire>, bool),
    Answered { accepted: bool },
}

struct Client {
    reader: CellReader,
    traveller: Traveller,
    state: Request,
    rejected: u64,
    attempts: u32,
}

struct World {
    writer: CellWriter,
    refresher: Refresher,
    wire: Option<Arc<Wire>>,
    fetches: u32,
    failed_dials: u32,
    hurried: u64,
    failing: bool,
    /// A report that the refresher has not read.
    reported: bool,
    /// An answer was lost, or might have been.
    lost: bool,
    late: bool,
    /// The vendor's tokens, by number; only the last one lives.
    issued: u64,
    /// The number of the token that each generation is, from 1.
    published: Vec<u64>,
    clients: [Client; 2],
    /// Requests do not look at the gate again after they have registered.
    careless: bool,
    /// The last one succeeds: what comes after is more of the same.
    most_fetches: u32,
}

impl World {
    fn new(travellers: [Traveller; 2], most_fetches: u32, careless: bool) -> Self {
        let (writer, reader) = cell(Clock::System);
        writer.set_gated(true);
        writer.publish(token(1), Outlook::Settled);
        let clients = travellers.map(|traveller| Client {
            reader: reader.clone(),
            traveller,
            state: Request::Look,
            rejected: 0,
            attempts: 0,
        });
        Self {
            writer,
            refresher: Refresher::Dial,
            wire: None,
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
            careless,
            most_fetches,
        }
    }

    fn moves(&self) -> Vec<Move> {
        let last = self.fetches >= self.most_fetches;
        let either = |make: fn(bool) -> Move| match last {
            true => vec![make(true)],
            false => vec![make(true), make(false)],
        };
        let mut moves = match self.refresher {
            Refresher::Dial => either(|works| Move::Dial { works }),
            Refresher::CloseToUnrepeatable => vec![Move::CloseToUnrepeatable],
            Refresher::Drain => {
                let idle = self.wire.as_ref().is_none_or(|wire| wire.is_idle());
                vec![Move::Drained { late: !idle }]
            }
            Refresher::CloseToAll => vec![Move::CloseToAll],
            Refresher::Exchange { .. } => either(|arrives| Move::Exchange { arrives }),
            Refresher::Answer { issued: false, .. } => vec![Move::Answer { arrives: false }],
            Refresher::Answer { .. } => either(|arrives| Move::Answer { arrives }),
            Refresher::Publish => vec![Move::Publish],
            Refresher::Reopen { .. } => vec![Move::Reopen],
            Refresher::Idle => {
                let mut moves = Vec::new();
                moves.extend(self.reported.then_some(Move::ReadRejection));
                moves.extend((self.failing && !last).then_some(Move::Retry));
                moves
            }
        };
        let able = (0..self.clients.len()).filter(|index| self.clients[*index].can_move());
        moves.extend(able.map(Move::Request));
        moves
    }

    fn make(&mut self, step: Move) {
        self.refresher = match step {
            Move::Request(index) => return self.request(index),
            Move::Dial { works } => {
                self.writer.set_outlook(Outlook::Soon);
                self.failed_dials += u32::from(!works);
                match works {
                    true => Refresher::CloseToUnrepeatable,
                    false => Refresher::Reopen { may_be_dead: false },
                }
            }
            Move::CloseToUnrepeatable => {
                self.wire = self.writer.gatekeeper().close_to_unrepeatable();
                Refresher::Drain
            }
            Move::Drained { late } => {
                self.late |= late;
                Refresher::CloseToAll
            }
            Move::CloseToAll => {
                self.writer.gatekeeper().close_to_all();
                Refresher::Exchange { first: true }
            }
            Move::Exchange { arrives } => {
                self.issued += u64::from(arrives);
                Refresher::Answer {
                    first: matches!(self.refresher, Refresher::Exchange { first: true }),
                    issued: arrives,
                }
            }
            Move::Answer { arrives: true } => Refresher::Publish,
            Move::Answer { arrives: false } => {
                let first = matches!(self.refresher, Refresher::Answer { first: true, .. });
                self.lost = true;
                match first {
                    true => Refresher::Exchange { first: false },
                    false => Refresher::Reopen { may_be_dead: true },
                }
            }
            Move::Publish => {
                self.published.push(self.issued);
                self.failing = false;
                self.writer
                    .publish(token(self.generation()), Outlook::Settled);
                Refresher::Idle
            }
            Move::Reopen => {
                self.failing = true;
                let dead = self.refresher == Refresher::Reopen { may_be_dead: true };
                let suspect = dead || self.writer.is_suspect();
                self.writer
                    .gatekeeper()
                    .open(suspect && self.hurried < self.generation());
                self.writer.set_outlook(Outlook::Failed {
                    class: Class::Transient,
                    next: Duration::MAX,
                });
                Refresher::Idle
            }
            Move::ReadRejection => self.read_rejection(),
            Move::Retry => self.fetch(),
        };
    }

    fn read_rejection(&mut self) -> Refresher {
        self.reported = false;
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(rejected) = pin!(self.writer.rejection()).poll(&mut context) else {
            panic!("a report went missing");
        };
        if rejected != self.generation() {
            return Refresher::Idle;
        }
        if self.writer.is_suspect() {
            self.hurried = rejected;
            return self.fetch();
        }
        assert!(self.failing, "a second fetch, for a token that lives");
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
                let on_wire = slot.wire.enter();
                Request::Confirm(slot, on_wire)
            }
            Request::Confirm(slot, on_wire) => {
                match self.careless || client.reader.is_unmoved(&slot) {
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
                match accepted || client.traveller == Traveller::Unrepeatable {
                    true => Request::Answered { accepted },
                    false => Request::Look,
                }
            }
            Request::Answered { .. } => panic!("an answered request has no moves"),
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
            let overtaken = matches!(
                client.state,
                Request::Judged(_, _, false) | Request::Answered { accepted: false }
            );
            let unrepeatable = client.traveller == Traveller::Unrepeatable;
            if overtaken && unrepeatable && !self.lost && !self.late {
                return Err("a dead token on a request that cannot be repeated".to_owned());
            }
            if client.attempts > 1 + self.fetches {
                return Err(format!("{} attempts", client.attempts));
            }
        }
        let fetching = !matches!(
            self.refresher,
            Refresher::Dial | Refresher::CloseToUnrepeatable | Refresher::Idle
        );
        // A dial that fails goes to `Reopen`, too, and has closed nothing.
        if !fetching && self.gate() != Gate::Open {
            return Err(format!("the gate is {:?} outside an exchange", self.gate()));
        }
        if !self.lost && self.fetches > 1 + self.failed_dials {
            return Err("a second fetch for one rejection".to_owned());
        }
        Ok(())
    }

    /// Nothing can move any more.
    fn check_end(&self) -> Result<(), String> {
        if self.gate() != Gate::Open {
            return Err("the gate stays closed".to_owned());
        }
        for client in &self.clients {
            match (&client.state, client.traveller) {
                (Request::Answered { accepted: true }, _)
                | (Request::Answered { .. }, Traveller::Unrepeatable) => {}
                _ => return Err(format!("{:?} is never answered", client.traveller)),
            }
        }
        Ok(())
    }

    /// All that what comes depends on.
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
            (slot.gate, &slot.wire),
        )
    }
}

impl Client {
    fn can_move(&self) -> bool {
        match self.state {
            Request::Answered { .. } => false,
            Request::Waiting => self.reader.watch.has_changed().unwrap(),
            _ => true,
        }
    }

    /// As `enter`, and then as `opening` and `newer` begin to wait.
    fn look(&mut self) -> Request {
        self.reader.watch.mark_unchanged();
        match self.reader.look(self.traveller, self.rejected) {
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
        wall_deadline: None,
        boot_deadline: None,
    })
}

/// What a walk has seen: states, and ends without any loss that took one fetch.
#[derive(Debug, Default)]
struct Walked {
    states: usize,
    ends: usize,
    smooth: usize,
}

/// The error is what went wrong and how it came to that.
fn walk(travellers: [Traveller; 2], most_fetches: u32, careless: bool) -> Result<Walked, String> {
    let mut seen = HashSet::new();
    let mut walked = Walked::default();
    let mut paths: Vec<Vec<Move>> = vec![Vec::new()];
    while let Some(path) = paths.pop() {
        let mut world = World::new(travellers, most_fetches, careless);
        for step in &path {
            world.make(*step);
        }
        if !seen.insert(world.fingerprint()) {
            continue;
        }
        let moves = world.moves();
        let mut checked = world.check();
        if moves.is_empty() {
            checked = checked.and_then(|()| world.check_end());
            walked.ends += 1;
            if !world.lost && !world.failing {
                walked.smooth += usize::from(world.fetches == 1);
            }
        }
        checked.map_err(|what| format!("{what}, after {path:?}"))?;
        paths.extend(moves.into_iter().map(|step| {
            let mut path = path.clone();
            path.push(step);
            path
        }));
    }
    walked.states = seen.len();
    Ok(walked)
}

#[test]
fn in_every_order_nobody_is_overtaken_and_nobody_waits_for_ever() {
    use Traveller::{Replayable, Unrepeatable};
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

/// The walk would find it.
#[test]
fn a_request_that_does_not_look_again_is_overtaken() {
    let travellers = [Traveller::Replayable, Traveller::Unrepeatable];
    let found = walk(travellers, 1, true).unwrap_err();
    assert!(found.starts_with("a dead token"), "{found}");
}
