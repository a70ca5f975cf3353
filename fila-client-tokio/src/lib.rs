//! Client for the Fila message broker.
