#!/bin/bash -eu
# Builds all targets for ClusterFuzzLite, each with its corpus and the dictionary.
cd "$SRC/fila-clients-rust"
cargo fuzz build --release
binaries="${CARGO_TARGET_DIR:-target}/x86_64-unknown-linux-gnu/release"
for source in fuzz/fuzz_targets/*.rs; do
    target="$(basename "$source" .rs)"
    cp "$binaries/$target" "$OUT/"
    cp fuzz/dictionary "$OUT/$target.dict"
    zip -qj "$OUT/${target}_seed_corpus.zip" "fuzz/corpus/$target"/*
done
