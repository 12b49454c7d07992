package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/hostnet"
	"github.com/dspool/dspool/internal/image"
	"github.com/dspool/dspool/internal/provider/runc"
	"github.com/spf13/cobra"
)

func doctorCommand() *cobra.Command {
	var runcPath, cache, file string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this host lacks, and how to get it",
		Long: "Look at this host, without changing it, for everything that a server needs: kernel, control groups,\n" +
			"network, runc, image builder, free ports for the doors. Ends with 1 when something is missing that nothing works without.",
		Example: "  dspool doctor\n  dspool doctor --config team.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			doors, domain, err := doorsToCheck(file)
			if err != nil {
				return err
			}
			findings := runc.Check(ctx, runc.Config{StateDir: stateDir(), Runc: findRunc(runcPath), Self: self()})
			findings = append(findings, hostnet.Check(ctx)...)
			findings = append(findings, image.Check(ctx, cache)...)
			findings = append(findings, checkDoors(doors)...)
			findings = append(findings, checkNames(ctx, domain))
			shares, err := sharesToCheck(file)
			if err != nil {
				return err
			}
			findings = append(findings, checkShares(stateDir(), shares)...)
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			missing := 0
			for _, f := range findings {
				mark := "ok"
				switch {
				case !f.OK && f.Fatal:
					mark = "MISSING"
					missing++
				case !f.OK:
					mark = "warning"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", mark, f.Subject, f.Detail)
				if !f.OK && f.Fix != "" {
					fmt.Fprintf(w, "\t\t→ %s\n", f.Fix)
				}
			}
			w.Flush()
			if missing > 0 {
				return dspool.Errorf(dspool.Unavailable, "%d things are missing that nothing works without", missing)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "look at the doors of this configuration (without it, at the usual web door)")
	cmd.Flags().StringVar(&runcPath, "runc", "", "runc binary (default: beside this program, else from PATH)")
	cmd.Flags().StringVar(&cache, "image-cache", image.DefaultCache, "where built images lie")
	return cmd
}
