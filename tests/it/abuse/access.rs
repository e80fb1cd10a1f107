//! Who may do what on each listener, from this PC, from a page and from the network.
