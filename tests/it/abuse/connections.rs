//! Clients that open many connections, or keep them open without using them.
