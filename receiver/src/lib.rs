//! Keeps every version: ingest, catalog, views, replica image.
