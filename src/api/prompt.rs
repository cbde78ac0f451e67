//! From the parts of a request to the items of a conversation.
