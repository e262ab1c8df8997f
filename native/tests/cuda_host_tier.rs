//! Adapters that leave the device and come back from the host, on an engine that steps.
#![cfg(any(feature = "cuda", feature = "cuda-emulated"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;
mod toy;

use common::{Rng, bits};
use loramux_native::error::Code;
use loramux_native::session::engine::{Engine, EngineOptions};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use toy::device::{device_engine, device_options, device_ready};
use toy::steps::{Part, batch_of, logits, make_resident, nth_pages, pool, prompt, runs_of};
use toy::{Toy, Variant};

fn step(engine: &mut Engine, tokens: &[i32], handle: u32) -> Vec<Vec<u32>> {
    let part = Part { tokens, past: 0, pages: &[5, 2, 9], entry: 0 };
    logits(engine, batch_of(&[part], vec![vec![(handle, 1.0)]])).iter().map(|row| bits(row)).collect()
}

#[test]
fn an_adapter_that_left_and_came_back_gives_the_same_logits() {
    if !device_ready() {
        return;
    }
    let mut engine = device_engine(&Toy::new(Variant::default()));
    let shared = engine.shared();
    let kept = shared.adapters.kept().unwrap();
    let tokens = prompt(&mut Rng(1), 5);
    let adapters = pool();
    let handles: Vec<u32> = adapters.iter().map(|adapter| make_resident(&engine, adapter)).collect();
    let before: Vec<_> = handles.iter().map(|&handle| step(&mut engine, &tokens, handle)).collect();
    let images: Vec<u32> = handles.iter().map(|&handle| kept.keep(handle).unwrap().unwrap().0).collect();
    for &handle in &handles {
        drop(shared.adapters.release(handle));
    }
    assert_eq!(shared.adapters.memory(), (0, 0));
    assert_eq!(kept.keep(handles[0]).err().unwrap().code, Code::StepFailed, "it has left");
    // Two of each, backwards: they lie where others lay.
    let runs: Vec<_> = adapters.iter().map(|adapter| runs_of(&engine, adapter)).collect();
    for (at, &image) in images.iter().enumerate().rev() {
        let (first, bytes) = kept.restore(image, &nth_pages(&runs[at], images.len())).unwrap();
        let (second, _) = kept.restore(image, &nth_pages(&runs[at], at)).unwrap();
        assert!(first > handles[handles.len() - 1] && second > first && bytes > 0);
        for handle in [second, first] {
            assert_eq!(step(&mut engine, &tokens, handle), before[at], "adapter {at}");
        }
        drop(shared.adapters.release(first));
    }
    kept.discard(images[0]);
    kept.discard(images[0]);
    assert_eq!(kept.restore(images[0], &nth_pages(&runs[0], 0)).err().unwrap().code, Code::Native);
}

#[test]
fn loads_from_the_host_end_while_a_step_runs_and_change_nothing_of_it() {
    if !device_ready() {
        return;
    }
    let mut engine = device_engine(&Toy::new(Variant::default()));
    let shared = engine.shared();
    let adapters = pool();
    let tokens = prompt(&mut Rng(2), 24);
    let steady = make_resident(&engine, &adapters[3]);
    let wanted = step(&mut engine, &tokens, steady);
    let image = shared.adapters.kept().unwrap().keep(make_resident(&engine, &adapters[7])).unwrap().unwrap().0;
    let pages = nth_pages(&runs_of(&engine, &adapters[7]), 30);
    let (stop, stepping, within) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let kept = shared.adapters.kept().unwrap();
            while !stop.load(Ordering::Acquire) {
                // An odd number: a step was at work, and the same one still was at the end.
                let before = stepping.load(Ordering::Acquire);
                let (handle, _) = kept.restore(image, &pages).unwrap();
                if before % 2 == 1 && stepping.load(Ordering::Acquire) == before {
                    within.fetch_add(1, Ordering::AcqRel);
                }
                let again = kept.keep(handle).unwrap().unwrap().0;
                drop(shared.adapters.release(handle));
                kept.discard(again);
            }
        });
        for _ in 0..200 {
            stepping.fetch_add(1, Ordering::AcqRel);
            let found = step(&mut engine, &tokens, steady);
            stepping.fetch_add(1, Ordering::AcqRel);
            if found != wanted {
                stop.store(true, Ordering::Release);
                panic!("a load changed what a step computes");
            }
            if within.load(Ordering::Acquire) >= 3 {
                break;
            }
        }
        stop.store(true, Ordering::Release);
    });
    assert!(within.load(Ordering::Acquire) >= 3, "loads waited for steps");
}

#[test]
fn an_engine_without_a_host_tier_says_so() {
    if !device_ready() {
        return;
    }
    let toy = Toy::new(Variant::default());
    let mut options: EngineOptions = device_options(&toy);
    options.cuda = options.cuda.map(|cuda| loramux_native::session::engine::CudaOptions { host_bytes: 0, ..cuda });
    assert!(Engine::open(toy.own_manifest(), &options).unwrap().shared().adapters.kept().is_none());
    assert!(toy.engine(1).shared().adapters.kept().is_none());
}
