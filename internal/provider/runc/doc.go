// Package runc makes machines as system containers on this host.
//
// A machine is a container of runc over an overlay: the lower layer is the image's
// directory, id-mapped and read-only, the upper one a sparse disk image of the
// machine's size. Users have the same id on the host and in the machine, every other
// id is of a private range that no other machine on the host has, whichever
// installation it belongs to.
//
// All mounts are made in a mount namespace of their own, so that they, and the loop
// device of the disk, live exactly as long as the machine's processes: a server
// killed at any instant leaves no mount behind. What can be left is a directory
// below StateDir, control groups below dspool-INSTALLATION and a container in runc's
// own state; List shows all three and Destroy removes them.
package runc
