// Package image turns image recipes into root file systems and keeps them in a
// cache by content.
//
// A recipe is a YAML file; its name without ".yaml" is the image's name. Its key is
// a hash over everything that decides the content, so a changed recipe is another
// image and the old one stays until nobody uses it. The first layer is built by
// mmdebstrap from Debian packages; a recipe with "from" is built on an overlay over
// its parent and then stored as a complete tree of its own whose unchanged files are
// hard links into the parent's. Every image is therefore one plain directory, costs
// only what it adds, and can be removed in any order. Nobody ever writes to a
// finished image: machines see it as the read-only lower part of an overlay.
//
// Python packages are pinned and hashed in the recipe and installed by the image's own
// pip into a virtual environment; a recipe with such becomes up to three layers, so that
// what came over the network once is not fetched again for a change that needs none.
//
// Every command of a build runs in its own process, mount, IPC and host name
// namespaces. Its first process dies with the builder, the kernel then ends the rest
// and forgets the mounts, so that a cancelled or killed build leaves nothing but a
// temporary directory, which the next one sweeps.
package image
