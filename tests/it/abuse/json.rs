//! JSON that is slow to read: objects with many keys, arrays with many objects.
