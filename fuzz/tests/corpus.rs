//! The bodies of the fuzz targets, run on stable: over the corpora, over damaged copies of them, over noise.

use std::fs;
use std::path::{Path, PathBuf};

use fibp_fuzz::TARGETS;
use fibp_fuzz::seeds::seeds;

#[path = "../../fibp-proto/tests/pair/random.rs"]
mod random;

use random::Random;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// The files of a corpus, and those that fuzzing once failed on.
fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<PathBuf> = fs::read_dir(corpus(target))
        .expect("the corpus is there")
        .map(|entry| entry.expect("the folder can be read").path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let bytes = fs::read(&path).expect("the file can be read");
            (path, bytes)
        })
        .collect()
}

/// Bytes of no meaning.
struct Noise(Random);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0.next()
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound)
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next().to_be_bytes()[0]).collect()
    }

    /// Changes a few places.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.next().to_be_bytes()[0]),
                2 => bytes.extend_from_within(at..),
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = self.next().to_be_bytes()[0];
                    }
                }
            }
            bytes.truncate(8192);
        }
    }
}

#[test]
fn every_seed_is_in_its_corpus() {
    let seeds = seeds();
    for (target, name, bytes) in &seeds {
        let path = corpus(target).join(name);
        assert_eq!(
            fs::read(&path).ok().as_ref(),
            Some(bytes),
            "run: cargo run -p fibp-fuzz --example seeds"
        );
    }
    for (target, _) in TARGETS {
        assert!(seeds.iter().any(|(of, ..)| *of == target), "{target} has no seed");
    }
}

#[test]
fn corpora_hold() {
    for (target, body) in TARGETS {
        let inputs = inputs(target);
        assert!(!inputs.is_empty(), "{target} has no corpus");
        for (path, bytes) in inputs {
            println!("{}", path.display());
            body(&bytes);
        }
    }
}

#[test]
fn damaged_corpora_hold() {
    let mut noise = Noise(Random::new(1));
    for (target, body) in TARGETS {
        for (path, bytes) in inputs(target) {
            for _ in 0..20 {
                let mut damaged = bytes.clone();
                noise.damage(&mut damaged);
                println!("{} as {damaged:?}", path.display());
                body(&damaged);
            }
        }
    }
}

#[test]
fn noise_holds() {
    let mut noise = Noise(Random::new(2));
    for (target, body) in TARGETS {
        for _ in 0..300 {
            let n = noise.below(400);
            let bytes = noise.bytes(n);
            println!("{target} {bytes:?}");
            body(&bytes);
        }
    }
}
