//! fila-conformance
