// Package images holds the image recipes that come with dspool.
package images

import "embed"

// FS holds NAME.yaml for every image, and the files that they name.
//
//go:embed *.yaml
var FS embed.FS
