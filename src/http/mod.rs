//! HTTP/1.1 on `std::net`: listeners, connections, strict framing, deadlines.
