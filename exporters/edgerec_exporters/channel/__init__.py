"""The publisher's end of a channel: a TUF repository of bundles as a folder, for any static file server."""
