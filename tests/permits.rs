//! Histories of permits: order, ends of every kind, and that none is lost or made up.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use codex_completions::deadline::{Cancel, CancelCause, Deadline};
use codex_completions::permits::{Permit, Permits};
use codex_completions::threads;
use codex_completions::turn::{TurnError, TurnErrorKind};
use crossbeam_channel::{never, unbounded};

const LONG: Duration = Duration::from_secs(30);

fn queue(limit: Duration) -> Deadline {
    Deadline::after("PROXY_QUEUE_MS", limit)
}

fn acquire(permits: &Permits, limit: Duration) -> Result<Permit, TurnError> {
    permits.acquire(&queue(limit), &Cancel::default())
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        let _ = never::<()>().recv_timeout(Duration::from_micros(200));
    }
}

struct Waiter {
    thread: JoinHandle<Result<Permit, TurnError>>,
    cancel: Cancel,
}

/// Starts waiters one after another, so that their order is known.
fn waiters(permits: &Permits, count: usize) -> Vec<Waiter> {
    (0..count)
        .map(|_| {
            let before = permits.waiting();
            let cancel = Cancel::default();
            let (queued, told) = (permits.clone(), cancel.clone());
            let thread = threads::spawn("waiter", move || queued.acquire(&queue(LONG), &told)).unwrap();
            until("queued", || permits.waiting() == before + 1);
            Waiter { thread, cancel }
        })
        .collect()
}

#[test]
fn permits_up_to_the_limit_are_there_at_once() {
    let permits = Permits::new(3);
    let held: Vec<_> = (0..3).map(|_| acquire(&permits, Duration::ZERO).unwrap()).collect();
    assert_eq!((permits.in_use(), permits.waiting()), (3, 0));
    assert!(permits.try_acquire().is_none());
    drop(held);
    assert_eq!(permits.in_use(), 0);
    assert!(permits.try_acquire().is_some());
    assert_eq!(permits.in_use(), 0);
}

#[test]
fn no_limit_is_no_limit() {
    let permits = Permits::new(0);
    let held: Vec<_> = (0..1_000).map(|_| acquire(&permits, Duration::ZERO).unwrap()).collect();
    assert!(permits.try_acquire().is_some());
    assert_eq!(permits.in_use(), 1_000);
    drop(held);
    assert_eq!(permits.in_use(), 0);
}

#[test]
fn first_come_first_served() {
    let permits = Permits::new(1);
    let held = permits.try_acquire().unwrap();
    let (served, order) = unbounded();
    let threads: Vec<_> = (0..24)
        .map(|number| {
            let (permits, queued, served) = (permits.clone(), permits.clone(), served.clone());
            let thread = threads::spawn("waiter", move || {
                let permit = acquire(&queued, LONG).unwrap();
                served.send(number).unwrap();
                drop(permit);
            });
            until("queued", || permits.waiting() == number + 1);
            thread.unwrap()
        })
        .collect();
    drop(held);
    let order: Vec<_> = order.iter().take(24).collect();
    assert_eq!(order, (0..24).collect::<Vec<_>>());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!((permits.in_use(), permits.waiting()), (0, 0));
}

#[test]
fn who_comes_later_does_not_overtake() {
    let permits = Permits::new(2);
    let (one, two) = (permits.try_acquire().unwrap(), permits.try_acquire().unwrap());
    let mut queue = waiters(&permits, 3);
    drop(one);
    // The permit belongs to the first waiter from this moment, whether its thread has run or not.
    assert!(permits.try_acquire().is_none());
    assert!(acquire(&permits, Duration::ZERO).is_err());
    assert_eq!((permits.in_use(), permits.waiting()), (2, 2));
    let first = queue.remove(0).thread.join().unwrap().unwrap();
    drop((first, two));
    for waiter in queue {
        drop(waiter.thread.join().unwrap().unwrap());
    }
    assert_eq!((permits.in_use(), permits.waiting()), (0, 0));
}

#[test]
fn a_wait_in_vain_ends_with_an_error_that_says_what_to_change() {
    let permits = Permits::new(1);
    let _held = permits.try_acquire().unwrap();
    for limit in [Duration::ZERO, Duration::from_millis(20)] {
        let begun = Instant::now();
        let error = acquire(&permits, limit).unwrap_err();
        assert!(begun.elapsed() >= limit);
        assert_eq!(error.kind, TurnErrorKind::TooManyTurns);
        assert!(error.retry_after.is_some());
        assert!(error.message.contains("PROXY_SSE_MAX_CONCURRENCY"), "{error}");
        assert!(error.message.contains(&format!("PROXY_QUEUE_MS ({} ms)", limit.as_millis())), "{error}");
        assert_eq!((permits.in_use(), permits.waiting()), (1, 0));
    }
}

#[test]
fn a_client_that_leaves_leaves_the_queue_at_once() {
    let permits = Permits::new(1);
    let held = permits.try_acquire().unwrap();
    let mut queue = waiters(&permits, 3);
    let gone = queue.remove(1);
    gone.cancel.cancel(CancelCause::ClientGone);
    assert_eq!(gone.thread.join().unwrap().unwrap_err().kind, TurnErrorKind::ClientGone);
    assert_eq!((permits.in_use(), permits.waiting()), (1, 2));
    let stopped = queue.remove(1);
    stopped.cancel.cancel(CancelCause::ShuttingDown);
    assert_eq!(stopped.thread.join().unwrap().unwrap_err().kind, TurnErrorKind::ShuttingDown);
    drop(held);
    drop(queue.remove(0).thread.join().unwrap().unwrap());
    assert_eq!((permits.in_use(), permits.waiting()), (0, 0));
}

#[test]
fn a_client_that_has_left_before_does_not_wait() {
    let permits = Permits::new(1);
    let _held = permits.try_acquire().unwrap();
    let cancel = Cancel::default();
    cancel.cancel(CancelCause::ClientGone);
    cancel.wake().recv().unwrap();
    assert_eq!(permits.acquire(&queue(LONG), &cancel).unwrap_err().kind, TurnErrorKind::ClientGone);
    assert_eq!(permits.waiting(), 0);
}

#[test]
fn a_wait_costs_no_cpu() {
    let permits = Permits::new(1);
    let _held = permits.try_acquire().unwrap();
    let waiting = permits.clone();
    let thread = threads::spawn("waiter", move || {
        let error = acquire(&waiting, Duration::from_millis(300)).unwrap_err();
        (error.kind, cpu())
    });
    let (kind, cpu) = thread.unwrap().join().unwrap();
    assert_eq!(kind, TurnErrorKind::TooManyTurns);
    assert!(cpu < 15, "{cpu} hundredths of a second of CPU for a wait of 30");
}

/// Hundredths of a second of CPU that this thread has used.
fn cpu() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let fields = stat.rsplit_once(") ").unwrap().1.split(' ').skip(11);
    fields.take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_permit_goes_past_many_that_leave_at_that_moment() {
    for _ in 0..20 {
        let permits = Permits::new(1);
        let held = permits.try_acquire().unwrap();
        let mut queue = waiters(&permits, 12);
        let last = queue.pop().unwrap();
        let start = Arc::new(Barrier::new(2));
        let (leave, cancellers) = (Arc::clone(&start), queue.iter().map(|waiter| waiter.cancel.clone()));
        let cancellers: Vec<_> = cancellers.collect();
        let leaving = threads::spawn("leaving", move || {
            leave.wait();
            cancellers.iter().for_each(|canceller| canceller.cancel(CancelCause::ClientGone));
        });
        start.wait();
        drop(held);
        leaving.unwrap().join().unwrap();
        // Some were served, the others left; each permit comes back when its result is dropped.
        for waiter in queue {
            drop(waiter.thread.join().unwrap());
        }
        drop(last.thread.join().unwrap().unwrap());
        assert_eq!((permits.in_use(), permits.waiting()), (0, 0));
    }
}

#[test]
fn no_permit_is_lost_when_a_waiter_leaves_as_it_is_served() {
    let permits = Permits::new(1);
    let (mut served, mut left) = (0, 0);
    for round in 0..500 {
        let held = permits.try_acquire().expect("the permit of the last round is back");
        let Waiter { thread, cancel } = waiters(&permits, 1).remove(0);
        let start = Arc::new(Barrier::new(2));
        let leave = Arc::clone(&start);
        let leaving = threads::spawn("leaving", move || {
            leave.wait();
            cancel.cancel(CancelCause::ClientGone);
        });
        start.wait();
        // Moves the two moments against each other.
        (0..round % 100 * 4).for_each(|_| std::hint::spin_loop());
        drop(held);
        leaving.unwrap().join().unwrap();
        match thread.join().unwrap() {
            Ok(_) => served += 1,
            Err(_) => left += 1,
        }
        assert_eq!((permits.in_use(), permits.waiting()), (0, 0), "round {round}");
    }
    println!("served {served}, left {left}");
}

#[test]
fn under_load_never_more_than_the_limit_and_all_come_back() {
    const LIMIT: usize = 3;
    let permits = Permits::new(LIMIT);
    let running = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..16_u64)
        .map(|seed| {
            let (permits, running) = (permits.clone(), Arc::clone(&running));
            threads::spawn("load", move || {
                let mut random = seed * 0x9E37_79B9 + 1;
                let (mut served, mut refused) = (0, 0);
                for _ in 0..400 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let permit = match random % 4 {
                        0 => permits.try_acquire().ok_or(()),
                        1 => acquire(&permits, LONG).map_err(drop),
                        _ => acquire(&permits, Duration::from_micros(random % 300)).map_err(drop),
                    };
                    let Ok(permit) = permit else {
                        refused += 1;
                        continue;
                    };
                    served += 1;
                    assert!(running.fetch_add(1, Ordering::SeqCst) < LIMIT, "more turns than permits");
                    (0..random % 500).for_each(|_| std::hint::spin_loop());
                    running.fetch_sub(1, Ordering::SeqCst);
                    drop(permit);
                }
                (served, refused)
            })
            .unwrap()
        })
        .collect();
    let counts: Vec<(u32, u32)> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!((permits.in_use(), permits.waiting()), (0, 0));
    assert!(counts.iter().all(|(served, _)| *served >= 50), "{counts:?}");
    let all: Vec<_> = (0..LIMIT).map(|_| permits.try_acquire().unwrap()).collect();
    assert!(permits.try_acquire().is_none());
    drop(all);
}
