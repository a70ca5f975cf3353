//! The broker of tests that measure the memory of clients: see `fila_conformance::remote`.

fn main() -> std::io::Result<()> {
    fila_conformance::remote::serve(std::env::args().skip(1))
}
