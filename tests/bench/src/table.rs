//! Tables of figures that are checked in, in `tables/`.

use std::fs;
use std::path::PathBuf;

/// Compares what was measured with the table, line by line; writes the table instead if `FILA_BLESS` is set.
///
/// # Errors
///
/// The lines that differ.
///
/// # Panics
///
/// The table cannot be written.
pub fn check(name: &str, measured: &str) -> Result<(), Difference> {
    if is_blessed() {
        write(name, measured);
        return Ok(());
    }
    let recorded = read(name);
    let missing = lines(&recorded).filter(|line| !lines(measured).any(|other| other == *line));
    let new = lines(measured).filter(|line| !lines(&recorded).any(|other| other == *line));
    let difference: Vec<String> = missing
        .map(|line| format!("- {line}"))
        .chain(new.map(|line| format!("+ {line}")))
        .collect();
    if difference.is_empty() {
        Ok(())
    } else {
        Err(Difference(difference))
    }
}

/// Lines of a table that no longer hold.
pub struct Difference(Vec<String>);

impl std::fmt::Debug for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.0 {
            write!(f, "\n{line}")?;
        }
        Ok(())
    }
}

/// Whether tables are written rather than compared.
#[must_use]
pub fn is_blessed() -> bool {
    std::env::var_os("FILA_BLESS").is_some()
}

/// The table as it is checked in; empty if there is none.
#[must_use]
pub fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_default()
}

/// Replaces a table.
///
/// # Panics
///
/// It cannot be written.
pub fn write(name: &str, text: &str) {
    let path = path(name);
    fs::create_dir_all(path.parent().expect("a table is in a folder")).expect("a checkout that can be written to");
    fs::write(path, text).expect("a checkout that can be written to");
}

/// The rows of a table, without its comments.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tables", name].iter().collect()
}
