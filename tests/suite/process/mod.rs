//! The binary: crashes, outages, replicas, signals, limits, the command line, the README.
