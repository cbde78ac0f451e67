//! Which names of models exist.
