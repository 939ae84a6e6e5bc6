//! What comes over an upstream when many of its endpoints go and come back: by checks, all at once, and by
//! failures, with retries.

use super::*;

/// Endpoints, workers, and requests of each worker in a second.
const ENDPOINTS: usize = 20;
const WORKERS: usize = 8;
const PER_SECOND: u64 = 400;

/// What an endpoint gets in a second where all are alike.
const FAIR: f64 = WORKERS as f64 * PER_SECOND as f64 / ENDPOINTS as f64;

/// Checks find the first half of the pool down, or up, at once.
fn set_half_down(simulation: &Simulation, is_down: bool) {
    for worker in &simulation.workers {
        for endpoint in &worker.endpoints[..ENDPOINTS / 2] {
            worker.set_down(endpoint, is_down);
        }
    }
}

/// What the busiest, and all, of those that came back got in a second, in parts of a fair share; and the most
/// that one of them had under way.
fn second(simulation: &mut Simulation) -> (f64, f64, u32) {
    simulation.reached.fill(0);
    let (until, mut deepest) = (simulation.now + seconds(1), 0);
    while simulation.now < until {
        let soon = simulation.now + ANSWER;
        simulation.run(soon, PER_SECOND);
        for index in 0..ENDPOINTS / 2 {
            let loads = simulation
                .workers
                .iter()
                .map(|worker| worker.endpoints[index].load());
            deepest = deepest.max(loads.sum());
        }
    }
    let back = &simulation.reached[..ENDPOINTS / 2];
    let most = back.iter().max().copied().unwrap_or_default();
    let mean = f64::from(back.iter().sum::<u32>()) / back.len() as f64;
    (f64::from(most) / FAIR, mean / FAIR, deepest)
}

#[test]
fn half_of_a_pool_that_comes_back_at_once_is_not_overrun() {
    for seed in seeds() {
        for method in [Method::TwoChoices, Method::LeastConnections, Method::RoundRobin] {
            half_comes_back(seed, method);
        }
    }
}

fn half_comes_back(seed: u64, method: Method) {
    let mut settings = settings(ENDPOINTS);
    settings.balance = Some(method);
    let mut simulation = Simulation::with(seed, WORKERS, settings);
    set_half_down(&simulation, true);
    simulation.run(seconds(2), PER_SECOND);
    assert_eq!(second(&mut simulation), (0.0, 0.0, 0), "nobody asks who is down");
    set_half_down(&simulation, false);
    for passed in 1..=SLOW_START.as_secs() + 3 {
        let (most, mean, deepest) = second(&mut simulation);
        // Where half has a part of its share, that half gets so much of what it will get: 2s / (1 + s).
        let part = (passed as f64 / SLOW_START.as_secs_f64()).min(1.0);
        let expected = 2.0 * part / (1.0 + part);
        let told = format!(
            "seed {seed}, {method}, second {passed}: {most:.2} of a share at most, {mean:.2} on average, not \
             {expected:.2}; {deepest} at a time"
        );
        assert!((mean - expected).abs() < 0.13, "their share grows: {told}");
        assert!(most < mean + 0.25, "none is overrun: {told}");
        // A fair share is 3.2 at a time, on eight workers that know nothing of one another.
        assert!(deepest <= 12, "{told}");
    }
    assert!(simulation.is_calm());
}

/// What came of the requests of a while.
#[derive(Clone, Copy, Debug, Default)]
struct Came {
    requests: u64,
    attempts: u64,
    failed: u64,
}

impl Came {
    fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            attempts: self.attempts - before.attempts,
            failed: self.failed - before.failed,
        }
    }

    /// Attempts for each request.
    fn amplification(self) -> f64 {
        self.attempts as f64 / self.requests as f64
    }
}

/// A request under way.
struct Request<'u> {
    live: Live<'u>,
    worker: &'u Upstream,
    attempts: Attempts,
    /// Its place at the endpoint asked last.
    slot: Option<Slot<'u>>,
    /// As [`Ended`] has it.
    has_died: bool,
}

/// Requests that are tried again while endpoints break them off.
struct Outage<'u> {
    workers: &'u [Upstream],
    begin: Instant,
    now: Duration,
    /// What the route says.
    rules: Rules,
    attempts_max: Option<usize>,
    /// So many of the endpoints break off what they are sent.
    ill: usize,
    under_way: BinaryHeap<Reverse<(Duration, u64)>>,
    requests: HashMap<u64, Request<'u>>,
    came: Came,
}

impl<'u> Outage<'u> {
    fn run(&mut self, time: Duration, every: Duration) -> Came {
        let (before, until) = (self.came, self.now + time);
        while self.now < until {
            for worker in self.workers {
                self.came.requests += 1;
                let mut attempts = worker.begin(true);
                attempts.limit(self.attempts_max.unwrap_or(usize::MAX), true);
                let request = Request {
                    live: worker.live().unwrap(),
                    worker,
                    attempts,
                    slot: None,
                    has_died: false,
                };
                self.send(self.came.requests, request);
            }
            let next = self.now + every;
            while let Some(Reverse((at, number))) =
                self.under_way.peek().copied().filter(|one| one.0.0 <= next)
            {
                self.under_way.pop();
                self.set_clock(at);
                self.end(number);
            }
            if self.now.as_secs() < next.as_secs() {
                self.look();
            }
            self.set_clock(next);
        }
        self.came.since(before)
    }

    fn set_clock(&mut self, moment: Duration) {
        self.now = moment;
        simulated::set(self.begin + moment);
    }

    /// The pool is never empty, whatever fails.
    fn look(&self) {
        for worker in self.workers {
            worker.look_at_health(now());
            let all = worker.endpoints.iter();
            let available = all.filter(|one| one.is_available(now())).count();
            assert!(2 * available >= worker.endpoints.len(), "{available} are left");
        }
    }

    fn send(&mut self, number: u64, mut request: Request<'u>) {
        request.slot = next(request.worker, &mut request.attempts);
        if request.slot.is_none() {
            assert!(request.has_died, "nobody was there to be asked");
            self.came.failed += 1;
            return;
        }
        self.came.attempts += 1;
        self.under_way.push(Reverse((self.now + ANSWER, number)));
        self.requests.insert(number, request);
    }

    fn end(&mut self, number: u64) {
        let mut request = self.requests.remove(&number).unwrap();
        let slot = request.slot.take().unwrap();
        let endpoint = slot.endpoint();
        if slot.index() >= self.ill {
            request.worker.note_answer(endpoint, 200, false);
            return;
        }
        request.worker.note(endpoint, Outcome::Failed(Cause::Reset));
        let ended = Ended {
            is_left_alone: !request.worker.is_available(endpoint),
            has_died: request.has_died,
            ..ended(Cause::Reset)
        };
        match self.rules.after(&ended, &request.live) {
            Next::Other => request.attempts.elsewhere(endpoint, ended.end),
            next => {
                assert_eq!(next, Next::None);
                self.came.failed += 1;
                return;
            }
        }
        drop(slot);
        request.has_died = true;
        self.send(number, request);
    }
}

/// What came while a tenth of the endpoints was ill for a second, and then for longer; while all were; and after
/// that.
fn outage(simulation: &Simulation, attempts_max: Option<usize>) -> [Came; 4] {
    let mut outage = Outage {
        workers: &simulation.workers,
        begin: simulation.begin,
        now: Duration::ZERO,
        rules: Rules {
            is_counted: attempts_max.is_some(),
            ..COUNTED
        },
        attempts_max,
        ill: ENDPOINTS / 10,
        under_way: BinaryHeap::new(),
        requests: HashMap::new(),
        came: Came::default(),
    };
    let every = Duration::from_millis(1); // twenty are under way at each worker
    let first = outage.run(seconds(1), every);
    let tenth = outage.run(seconds(4), every);
    outage.ill = ENDPOINTS;
    let all = outage.run(seconds(5), every);
    outage.ill = 0;
    outage.run(seconds(16 + 10 + 3), every);
    [first, tenth, all, outage.run(seconds(1), every)]
}

#[test]
fn where_a_route_says_nothing_of_attempts_an_outage_doubles_and_no_more() {
    for seed in seeds() {
        let simulation = Simulation::with(seed, 4, settings(ENDPOINTS));
        let [first, tenth, all, after] = outage(&simulation, None);
        let told = format!("seed {seed}: {first:?}, {tenth:?}, {all:?}, {after:?}");
        assert!(first.failed <= 10 && tenth.failed <= 4, "{told}");
        assert!(all.amplification() <= 2.01, "{told}");
        assert_eq!((after.attempts, after.failed), (after.requests, 0), "{told}");
    }
}

#[test]
fn an_outage_grows_by_the_budget_and_no_more_and_leaves_somebody_to_ask() {
    for (seed, attempts_max) in seeds().flat_map(|seed| [2, 3, 10].map(|most| (seed, most))) {
        let simulation = Simulation::with(seed, 4, settings(ENDPOINTS));
        let percent = simulation.workers[0].settings.retry_budget;
        let [first, tenth, all, after] = outage(&simulation, Some(attempts_max));
        let told = format!("seed {seed}, {attempts_max} attempts: {first:?}, {tenth:?}, {all:?}, {after:?}");
        // A tenth is found out; then only trials meet it, and hardly a request two of them.
        assert!(first.amplification() < 1.05 && first.failed <= 10, "{told}");
        assert!(tenth.amplification() < 1.01 && tenth.failed <= 4, "{told}");
        let most = retries::most(percent, usize::MAX);
        assert!(all.amplification() <= most, "{told}");
        assert!(all.amplification() > 0.9 * most, "the budget is used: {told}");
        assert_eq!((after.attempts, after.failed), (after.requests, 0), "{told}");
    }
}
