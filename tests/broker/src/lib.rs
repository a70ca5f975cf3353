//! fila-test-broker
