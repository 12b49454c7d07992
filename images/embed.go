// Package images holds the image recipes that come with dspool.
package images

import "embed"

// FS holds NAME.yaml for every image, and the files that they name but for Python
// modules, which are in package python.
//
//go:embed *.yaml *.txt
var FS embed.FS
