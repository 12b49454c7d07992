// Package python holds the Python package dspool, which lets JupyterHub start notebook servers on the
// machines of a pool. It is embedded, so that images are built with the version of the server that builds them.
package python

import "embed"

// FS is the package's source as pip installs it: pyproject.toml and README.md beside the folder dspool.
//
//go:embed pyproject.toml README.md dspool/*.py dspool/jupyterhub/*.py
var FS embed.FS
