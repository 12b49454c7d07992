package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

func (a *app) group() *cobra.Command {
	return group("group", "Look at groups of people", a.groupList())
}

func (a *app) groupList() *cobra.Command {
	var form string
	type set = dspool.Group
	return listOutput(command("list", "List groups and who is in them", "`dspool user set NAME --group GROUP` makes a group and puts a user into it.", "dspool group list", positional(0, 0),
		a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Groups(ctx)
			if err != nil {
				return err
			}
			return list(a, form, l.Items, "no groups: `dspool user set NAME --group GROUP` makes one", []column[set]{
				{name: "GROUP", text: func(g set) string { return g.Name }},
				{name: "ID", text: func(g set) string { return fmt.Sprint(g.GID) }, right: true},
				{name: "MEMBERS", text: func(g set) string { return strings.Join(g.Members, " ") }},
				{name: "CREATED", text: func(g set) string { return a.ago(g.Created) }, raw: func(g set) string { return rawTime(&g.Created) }},
			}...)
		})), &form)
}
