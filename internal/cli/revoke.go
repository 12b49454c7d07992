package cli

import (
	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

const revokeLong = `A revoked certificate or key is refused at every door at once, and connections that came in with it end.
The serial number and the fingerprint of a login are in its events ("dspool events").
Serial numbers are those of this pool's own certificates unless --authority names one of the team's.`

func (a *app) revoke() *cobra.Command {
	var req api.RevocationRequest
	cmd := command("revoke", "End an SSH certificate or key at once, at every door", revokeLong,
		"dspool revoke --serial 17 --why \"laptop lost\"\ndspool revoke --key SHA256:oPlJHQFZzZc9g1+bYQWo5VZO399Fkx4yoAbMLphxpWg\ndspool revoke --serial 5 --authority SHA256:2MnDLBGbsCPnnVQLMsnNTqm1pkZrqQBGGPOiQGdQ4Lk", positional(0, 0),
		func(cmd *cobra.Command, _ []string) error {
			if (req.Serial == 0) == (req.Fingerprint == "") {
				return dspool.Errorf(dspool.Invalid, "a revocation names a serial number or a key").WithHint("give --serial or --key")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			if err := c.Revoke(cmd.Context(), req); err != nil {
				return err
			}
			a.say("revoked")
			return nil
		})
	cmd.Flags().Uint64Var(&req.Serial, "serial", 0, "of a certificate")
	text(cmd, &req.Authority, "authority", "FINGERPRINT", "the authority of the serial number (SHA256:…)")
	text(cmd, &req.Fingerprint, "key", "FINGERPRINT", "of a key and every certificate for it, or of an authority and all that it signed (SHA256:…)")
	text(cmd, &req.Why, "why", "TEXT", "for the events")
	return cmd
}
