//! The mistakes of the predecessor's authorization server that must not come back (catalogue 14.2, numbers 20 to 38):
//! one test for each, which says what went wrong.

mod browsers;
mod clients;
mod codes;
mod hosts;
mod secrets;
mod tokens;
