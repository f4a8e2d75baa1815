//! Stop and kill signals, and the tasks they wait for.
