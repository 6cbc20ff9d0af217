//! Tests of TLS set-up and of both handshakes.
