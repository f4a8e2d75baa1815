//! I/O that replays bytes already read.
