"""The shell: roles, storage, chain access, HTTP endpoints and the command line around the pure cores."""
