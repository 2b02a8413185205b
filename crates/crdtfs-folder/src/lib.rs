//! The watched folder: scanner, watcher, planner, safe apply.
