//! A wheel of slots, each a list of what is due at its tick, or a whole turn of the wheel later.
//! Free of clocks and waits.

use std::task::Waker;

/// Ticks of one turn. What is set further ahead than that is looked at once a turn until it is due.
const SLOTS: usize = 16 * 1024;

/// No entry.
const NONE: u32 = u32::MAX;

/// What was set, until it is cancelled. Another wheel's key is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    index: u32,
    serial: u32,
}

/// Who is to be woken at which tick.
pub(super) struct Wheel {
    /// The first entry of each slot.
    slots: Box<[u32]>,
    /// A bit for each slot that has one.
    occupied: Box<[u64]>,
    entries: Vec<Entry>,
    /// The first entry that is free.
    free: u32,
    serial: u32,
    /// Everything up to this tick has been rung.
    rung: u64,
}

struct Entry {
    tick: u64,
    serial: u32,
    previous: u32,
    next: u32,
    /// Until it has rung.
    waker: Option<Waker>,
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![NONE; SLOTS].into(),
            occupied: vec![0; SLOTS / 64].into(),
            entries: Vec::new(),
            free: NONE,
            serial: fastrand::u32(..),
            rung: 0,
        }
    }

    /// Wakes `waker` at `tick`; at the next one, if that one has passed.
    pub(super) fn set(&mut self, tick: u64, waker: Waker) -> Key {
        let tick = tick.max(self.rung + 1);
        self.serial = self.serial.wrapping_add(1);
        let slot = slot_of(tick);
        let entry = Entry {
            tick,
            serial: self.serial,
            previous: NONE,
            next: self.slots[slot],
            waker: Some(waker),
        };
        let second = entry.next;
        let index = self.put(entry);
        if second != NONE {
            self.entries[second as usize].previous = index;
        }
        self.slots[slot] = index;
        self.occupied[slot / 64] |= 1 << (slot % 64);
        Key {
            index,
            serial: self.serial,
        }
    }

    fn put(&mut self, entry: Entry) -> u32 {
        if self.free == NONE {
            self.entries.push(entry);
            return u32::try_from(self.entries.len() - 1).unwrap_or(NONE);
        }
        let index = self.free;
        self.free = self.entries[index as usize].next;
        self.entries[index as usize] = entry;
        index
    }

    /// Whether it has rung; if not, `waker` is woken from now on. And the waker that it replaces.
    pub(super) fn poll(&mut self, key: Key, waker: &Waker) -> (bool, Option<Waker>) {
        match self.entry(key).map(|entry| &mut entry.waker) {
            Some(Some(known)) if known.will_wake(waker) => (false, None),
            Some(Some(known)) => (false, Some(std::mem::replace(known, waker.clone()))),
            Some(None) | None => (true, None),
        }
    }

    /// Takes it out. The waker that is not woken any more.
    pub(super) fn cancel(&mut self, key: Key) -> Option<Waker> {
        let waker = self.entry(key)?.waker.take();
        if waker.is_some() {
            self.unlink(key.index);
        }
        self.serial = self.serial.wrapping_add(1);
        let entry = &mut self.entries[key.index as usize];
        entry.serial = self.serial; // nobody's
        entry.next = self.free;
        self.free = key.index;
        waker
    }

    fn entry(&mut self, key: Key) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(key.index as usize)?;
        (entry.serial == key.serial).then_some(entry)
    }

    fn unlink(&mut self, index: u32) {
        let Entry {
            tick, previous, next, ..
        } = self.entries[index as usize];
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        if previous != NONE {
            self.entries[previous as usize].next = next;
            return;
        }
        let slot = slot_of(tick);
        self.slots[slot] = next;
        if next == NONE {
            self.occupied[slot / 64] &= !(1 << (slot % 64));
        }
    }

    /// The tick at which something may be due, looking a turn ahead.
    pub(super) fn next(&self) -> Option<u64> {
        let first = slot_of(self.rung + 1);
        let ahead = |slot: usize| self.rung + 1 + ((slot + SLOTS - first) % SLOTS) as u64;
        let words = self.occupied.len();
        // The first slot's word comes twice: its upper bits first, its lower ones last.
        (0..=words).find_map(|step| {
            let word = (first / 64 + step) % words;
            let below = (1 << (first % 64)) - 1;
            let bits = match step {
                0 => self.occupied[word] & !below,
                step if step == words => self.occupied[word] & below,
                _ => self.occupied[word],
            };
            (bits != 0).then(|| ahead(word * 64 + bits.trailing_zeros() as usize))
        })
    }

    /// Rings what is due at `now` or before, to be woken by the caller.
    pub(super) fn ring(&mut self, now: u64) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(tick) = self.next().filter(|tick| *tick <= now) {
            self.ring_slot(slot_of(tick), now, &mut wakers);
            self.rung = tick;
        }
        self.rung = self.rung.max(now);
        wakers
    }

    fn ring_slot(&mut self, slot: usize, now: u64, wakers: &mut Vec<Waker>) {
        let mut index = self.slots[slot];
        while index != NONE {
            let entry = &mut self.entries[index as usize];
            let next = entry.next;
            if entry.tick <= now {
                wakers.extend(entry.waker.take());
                self.unlink(index);
            }
            index = next;
        }
    }
}

fn slot_of(tick: u64) -> usize {
    usize::try_from(tick % SLOTS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::task::Wake;

    use super::*;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Bell(AtomicU64);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn ring(wheel: &mut Wheel, now: u64) {
        for waker in wheel.ring(now) {
            waker.wake();
        }
    }

    #[test]
    fn it_rings_at_its_tick_and_not_before() {
        let mut wheel = Wheel::new();
        for tick in [
            1,
            63,
            64,
            65,
            SLOTS as u64 - 1,
            SLOTS as u64,
            3 * SLOTS as u64 + 5,
        ] {
            let bell = Arc::new(Bell::default());
            let key = wheel.set(wheel.rung + tick, bell.clone().into());
            let due = wheel.rung + tick;
            ring(&mut wheel, due - 1);
            assert_eq!(
                (bell.0.load(Relaxed), wheel.poll(key, Waker::noop()).0),
                (0, false)
            );
            // The noop waker of the poll is woken now, and the bell no more.
            ring(&mut wheel, due);
            assert_eq!(
                (bell.0.load(Relaxed), wheel.poll(key, Waker::noop()).0),
                (0, true)
            );
            assert!(wheel.cancel(key).is_none());
        }
        assert_eq!(wheel.next(), None);
        assert_eq!(wheel.entries.len(), 1, "an entry serves again");
    }

    #[test]
    fn a_key_that_was_given_back_is_nobodys() {
        let mut wheel = Wheel::new();
        let old = wheel.set(5, Waker::noop().clone());
        assert!(wheel.cancel(old).is_some());
        let new = wheel.set(5, Waker::noop().clone());
        assert_eq!(old.index, new.index);
        assert!(wheel.cancel(old).is_none());
        assert!(!wheel.poll(new, Waker::noop()).0);
        assert_eq!(wheel.next(), Some(5));
    }

    /// Sets, cancels and lets time pass at random, beside a map that does the same slowly.
    #[test]
    fn it_does_what_a_map_would() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut wheel = Wheel::new();
        let mut model: BTreeMap<u64, (u64, Key, Arc<Bell>)> = BTreeMap::new();
        let (mut now, mut count) = (0, 0);
        for _ in 0..5_000 {
            match random.u32(..10) {
                0..=4 => {
                    let reach = [3, 100, SLOTS as u64, 3 * SLOTS as u64][random.usize(..4)];
                    let tick = now + random.u64(..reach);
                    let bell = Arc::new(Bell::default());
                    let key = wheel.set(tick, bell.clone().into());
                    model.insert(count, (tick.max(now + 1), key, bell));
                    count += 1;
                }
                5..=7 if !model.is_empty() => {
                    let which = *model.keys().nth(random.usize(..model.len())).unwrap();
                    let (tick, key, bell) = model.remove(&which).unwrap();
                    assert_eq!(wheel.cancel(key).is_some(), tick > now, "seed {seed}");
                    assert_eq!(bell.0.load(Relaxed), u64::from(tick <= now), "seed {seed}");
                }
                _ => {
                    let most = [1, 10, SLOTS as u64 + 7][random.usize(..3)];
                    now += random.u64(..=most);
                    ring(&mut wheel, now);
                }
            }
            let earliest = model
                .values()
                .map(|entry| entry.0)
                .filter(|tick| *tick > now)
                .min();
            assert_eq!(wheel.next().is_some(), earliest.is_some());
            assert!(
                wheel
                    .next()
                    .is_none_or(|next| next > now && Some(next) <= earliest)
            );
            for (tick, _, bell) in model.values() {
                assert_eq!(
                    bell.0.load(Relaxed),
                    u64::from(*tick <= now),
                    "tick {tick} at {now}, seed {seed}"
                );
            }
        }
    }
}
