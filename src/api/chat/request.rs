//! JSON of a chat request, validated.
