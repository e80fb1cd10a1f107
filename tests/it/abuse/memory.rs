//! Clients that make the agent or the embedded server use memory.
