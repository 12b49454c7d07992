package cli

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

func (a *app) size() *cobra.Command {
	var form string
	type size = dspool.Size
	return group("size", "Look at sizes of machines", listOutput(command("list", "List sizes and their prices", "", "dspool size list", positional(0, 0),
		a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Sizes(ctx)
			if err != nil {
				return err
			}
			return list(a, form, l.Items, "no sizes", []column[size]{
				{name: "SIZE", text: func(s size) string { return s.Name }},
				{name: "CPUS", text: func(s size) string { return dspool.FormatCPUs(s.CPUs) }, right: true},
				{name: "MEMORY", text: func(s size) string { return dspool.FormatBytes(s.Memory) }, raw: func(s size) string { return strconv.FormatInt(s.Memory, 10) }, right: true},
				{name: "DISK", text: func(s size) string { return dspool.FormatBytes(s.Disk) }, raw: func(s size) string { return strconv.FormatInt(s.Disk, 10) }, right: true},
				{name: "GPUS", text: func(s size) string { return strconv.Itoa(s.GPUs) }, right: true},
				{name: "PER HOUR", text: func(s size) string { return money(s.Price) }, raw: func(s size) string { return rawFloat(s.Price) }, right: true},
			}...)
		})), &form))
}

func (a *app) share() *cobra.Command {
	var form string
	bytes := func(get func(shareStatus) int64) (func(shareStatus) string, func(shareStatus) string) {
		return func(s shareStatus) string { return dspool.FormatBytes(get(s)) }, func(s shareStatus) string { return strconv.FormatInt(get(s), 10) }
	}
	free, rawFree := bytes(func(s shareStatus) int64 { return s.Free })
	total, rawTotal := bytes(func(s shareStatus) int64 { return s.Total })
	return group("share", "Look at shared file trees", listOutput(command("list", "List shares with their space", "", "dspool share list", positional(0, 0),
		a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Shares(ctx)
			if err != nil {
				return err
			}
			return list(a, form, l.Items, "no shares", []column[shareStatus]{
				{name: "SHARE", text: func(s shareStatus) string { return s.Name }},
				{name: "KIND", text: func(s shareStatus) string { return s.Kind }},
				{name: "MOUNT", text: func(s shareStatus) string { return s.Mount }},
				{name: "POOLS", text: func(s shareStatus) string { return strings.Join(s.Pools, " ") }},
				{name: "FREE", text: free, raw: rawFree, right: true},
				{name: "TOTAL", text: total, raw: rawTotal, right: true},
				{name: "PATH", text: func(s shareStatus) string { return s.Path }},
			}...)
		})), &form))
}
