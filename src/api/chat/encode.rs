//! Events of a turn as chat completions.
