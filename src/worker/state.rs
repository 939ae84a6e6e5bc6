//! What the connections of this core share: `Rc`, but for what other threads read, too.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use async_channel::Receiver;

use super::accept::{self, Doorman};
use super::{Adopt, Command, Event, Start};
use crate::access_log::Log;
use crate::connection::{self, Accepted, Serving};
use crate::drain::{Drain, Step};
use crate::generation::Generation;
use crate::listener::{self, Slots};
use crate::metrics::Counters;
use crate::proxy::Proxy;
use crate::runtime::{self, Address, Driver, Listener, Socket};
use crate::time::now;
use crate::upstream;
use crate::upstream::health::Checked;

/// How often records are handed to the writer and idle upstream connections are looked through.
const TICK: Duration = Duration::from_millis(200);

/// One worker, seen from its own thread.
pub(super) struct State {
    ground: Ground,
    driver: Rc<str>,
    serving: RefCell<Rc<Serving>>,
    /// Generations that still have connections, besides the one in force.
    older: RefCell<Vec<Weak<Serving>>>,
    accepting: RefCell<Vec<Rc<Accepting>>>,
    open: Cell<usize>,
    cut: Cell<usize>,
    step: Cell<Step>,
    tell: Box<dyn Fn(Event)>,
}

/// What all generations of this worker stand on.
struct Ground {
    number: usize,
    /// How many workers share each listener, and each upstream.
    workers: usize,
    log: Rc<Log>,
    counters: Arc<Counters>,
}

impl Ground {
    fn serving(&self, driver: Rc<str>, generation: Arc<Generation>, previous: Option<&Proxy>) -> Serving {
        Serving {
            worker: self.number,
            driver,
            proxy: Proxy::new(
                generation.clone(),
                self.workers,
                self.log.clone(),
                self.counters.clone(),
                previous,
            ),
            generation,
            log: self.log.clone(),
            counters: self.counters.clone(),
            drain: Drain::new(),
        }
    }
}

/// A listener of this worker, for as long as it is in a generation.
struct Accepting {
    address: Address,
    slots: Slots,
    closing: Drain,
    /// The newest generation that has it, and its place in that one: what still waits to be accepted when it
    /// goes has come to this listener, and the generation in force may have another in its place, or none.
    place: RefCell<(Rc<Serving>, usize)>,
}

impl Accepting {
    fn place(&self) -> (Rc<Serving>, usize) {
        self.place.borrow().clone()
    }
}

impl State {
    /// Serves until the process ends. What the supervisor wants comes by `commands`.
    pub(super) async fn run(
        start: Start,
        driver: Driver,
        commands: Receiver<Command>,
        tell: impl Fn(Event) + 'static,
    ) {
        let (settings, sender) = start.log;
        let log = Rc::new(Log::new(&settings, sender, start.counters.clone()));
        let ground = Ground {
            log: log.clone(),
            counters: start.counters.clone(),
            number: start.number,
            workers: start.workers,
        };
        let text: Rc<str> = driver.to_string().into();
        let serving = ground.serving(text.clone(), start.adopt.generation, None);
        serving.proxy.set_all_checked(&start.adopt.down);
        let state = Rc::new(Self {
            ground,
            driver: text,
            serving: RefCell::new(Rc::new(serving)),
            older: RefCell::default(),
            accepting: RefCell::default(),
            open: Cell::new(0),
            cut: Cell::new(0),
            step: Cell::new(Step::Open),
            tell: Box::new(tell),
        });
        state.listen(start.adopt.sockets);
        state.start_ticking();
        (state.tell)(Event::Started(start.number, driver));
        super::obey(&state, commands).await;
        std::future::pending().await
    }

    /// Takes a generation into force for new connections.
    pub(super) fn adopt(self: &Rc<Self>, adopt: Adopt) {
        let number = adopt.generation.number;
        let old = self.serving.borrow().clone();
        let new = self
            .ground
            .serving(self.driver.clone(), adopt.generation, Some(&old.proxy));
        self.ground.log.set(&new.generation.access_log);
        new.proxy.set_all_checked(&adopt.down);
        self.serving.replace(Rc::new(new));
        self.listen(adopt.sockets);
        // Those who stay connected come over with their next connection; nobody is cut off.
        old.drain.advance(Step::Started);
        let mut older = self.older.borrow_mut();
        older.retain(|serving| serving.strong_count() > 0);
        older.push(Rc::downgrade(&old));
        (self.tell)(Event::Adopted(self.ground.number, number));
    }

    /// Gives an upstream the endpoints that were found, in all generations that have it.
    pub(super) fn found(&self, upstream: &upstream::Settings) {
        self.generations(|serving| serving.proxy.set_found(upstream));
    }

    /// Hands what checks found to the upstreams of all generations.
    pub(super) fn checked(&self, checked: &Checked) {
        self.generations(|serving| serving.proxy.set_checked(checked));
    }

    /// Goes away, a step further.
    pub(super) fn drain(&self, step: Step) {
        self.step.set(self.step.get().max(step));
        if step == Step::Cut {
            self.cut.set(self.open.get());
        }
        for accepting in self.accepting.borrow().iter() {
            accepting.closing.advance(Step::Cut);
        }
        self.generations(|serving| serving.drain.advance(step));
        self.serving.borrow().proxy.mirrors().drain(step);
        self.tell_if_drained();
    }

    fn generations(&self, mut tell: impl FnMut(&Serving)) {
        tell(&self.serving.borrow());
        for serving in self.older.borrow().iter().filter_map(Weak::upgrade) {
            tell(&serving);
        }
    }

    /// Brings the listeners in line with the generation in force.
    fn listen(self: &Rc<Self>, mut sockets: Vec<(Address, OwnedFd)>) {
        let serving = self.serving.borrow().clone();
        let generation = &serving.generation;
        for accepting in self.accepting.borrow().iter() {
            let index = generation
                .listeners
                .iter()
                .position(|new| new.settings.address == accepting.address);
            match index {
                Some(index) => {
                    accepting.place.replace((serving.clone(), index));
                    accepting
                        .slots
                        .resize(self.share(&generation.listeners[index].settings));
                }
                None => accepting.closing.advance(Step::Cut),
            }
        }
        for (index, listener) in generation.listeners.iter().enumerate() {
            let address = &listener.settings.address;
            let Some(at) = sockets.iter().position(|(of, _)| of == address) else {
                continue;
            };
            let (address, socket) = sockets.swap_remove(at);
            let accepting = Rc::new(Accepting {
                address,
                slots: Slots::new(self.share(&listener.settings)),
                closing: Drain::new(),
                place: RefCell::new((serving.clone(), index)),
            });
            self.accepting.borrow_mut().push(accepting.clone());
            self.spawn_accept(accepting, socket);
        }
    }

    /// This worker's part of a listener's connections, rounded up.
    fn share(&self, settings: &listener::Settings) -> usize {
        settings.connections_max.div_ceil(self.ground.workers)
    }

    fn spawn_accept(self: &Rc<Self>, accepting: Rc<Accepting>, socket: OwnedFd) {
        let state = self.clone();
        let future = async move {
            match Listener::new(socket) {
                Ok(listener) => {
                    let door = Door {
                        state: &state,
                        accepting: &accepting,
                    };
                    accept::accept(&listener, &accepting.slots, &accepting.closing, &door).await;
                }
                Err(error) => tracing::error!(listener = %accepting.address, %error, "cannot accept"),
            }
            state
                .accepting
                .borrow_mut()
                .retain(|known| !Rc::ptr_eq(known, &accepting));
            state.tell_if_drained();
        };
        let tell = self.clone();
        runtime::spawn(future, move |panic| {
            // A worker that no longer accepts must not look alive.
            (tell.tell)(Event::Died(
                tell.ground.number,
                format!("its accept loop panicked: {panic}"),
            ));
        });
    }

    fn start_ticking(self: &Rc<Self>) {
        let state = self.clone();
        let future = async move {
            loop {
                runtime::sleep(TICK).await;
                state.ground.log.flush();
                state.generations(|serving| serving.proxy.sweep(now()));
                // What is sent to mirrors ends without telling anybody.
                state.tell_if_drained();
            }
        };
        let tell = self.clone();
        runtime::spawn(future, move |panic| {
            (tell.tell)(Event::Died(
                tell.ground.number,
                format!("its housekeeping panicked: {panic}"),
            ));
        });
    }

    fn admit(self: &Rc<Self>, accepting: &Accepting, socket: Socket, peer: Option<SocketAddr>) {
        let (serving, listener) = accepting.place();
        let accepted = Accepted {
            socket,
            peer,
            listener,
            at: now(),
            slot: accepting.slots.take(),
        };
        self.open.set(self.open.get() + 1);
        let open = Open(self.clone());
        let future = async move {
            connection::serve(accepted, &serving).await;
            drop(open);
        };
        runtime::spawn(future, |panic| {
            tracing::error!("the end of a connection panicked: {panic}")
        });
    }

    fn tell_if_drained(&self) {
        let drained = self.step.get() > Step::Open
            && self.open.get() == 0
            && self.accepting.borrow().is_empty()
            && self.serving.borrow().proxy.mirrors().is_empty();
        if drained {
            self.ground.log.flush();
            (self.tell)(Event::Drained(self.ground.number, self.cut.get()));
        }
    }
}

/// One of the worker's open connections.
struct Open(Rc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.tell_if_drained();
    }
}

struct Door<'w> {
    state: &'w Rc<State>,
    accepting: &'w Accepting,
}

impl Doorman for Door<'_> {
    fn admit(&self, socket: Socket, peer: Option<SocketAddr>) {
        self.state.admit(self.accepting, socket, peer);
    }

    fn failed(&self, error: &io::Error) {
        let (serving, index) = self.accepting.place();
        let name = &serving.generation.listeners[index].settings.name;
        self.state.ground.counters.listener(name).accept_failed(error);
        let help = match error.raw_os_error() {
            Some(libc::EMFILE) => "no file descriptors left for this process: raise LimitNOFILE=",
            Some(libc::ENFILE) => "no file descriptors left on this machine: raise fs.file-max",
            Some(libc::ENOBUFS | libc::ENOMEM) => "no memory left for sockets",
            _ => "the connection was gone before it was accepted",
        };
        tracing::warn!(listener = %self.accepting.address, %error, "cannot accept: {help}");
    }
}
