package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

func (a *app) image() *cobra.Command {
	return group("image", "Build images and look at them", a.imageBuild(), a.imageList(), a.imageRemove())
}

func (a *app) imageBuild() *cobra.Command {
	var noWait bool
	cmd := command("build [IMAGE...]", "Build images from their recipes",
		"Without a name every image that is not ready is built. What has not changed comes from the cache.",
		"dspool image build\ndspool image build UbuntuDSVM", cobra.ArbitraryArgs,
		a.with(func(ctx context.Context, c *client.Client, names []string) error {
			if len(names) == 0 {
				l, err := c.Images(ctx)
				if err != nil {
					return err
				}
				for _, i := range l.Items {
					if i.State != dspool.ImageReady {
						names = append(names, i.Name)
					}
				}
				if len(names) == 0 {
					a.say("every image is ready")
				}
			}
			for _, name := range names {
				op, err := c.BuildImage(ctx, name)
				if err != nil {
					return err
				}
				if err := a.finishOperation(ctx, c, op, noWait, "image "+name+" is ready"); err != nil {
					return err
				}
			}
			return nil
		}))
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "print the operation's id instead of waiting")
	cmd.ValidArgsFunction = a.completion(-1, imageNames)
	return cmd
}

func (a *app) imageList() *cobra.Command {
	var form string
	type image = dspool.Image
	return listOutput(command("list", "List images and whether machines can start from them", "", "dspool image list", positional(0, 0),
		a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Images(ctx)
			if err != nil {
				return err
			}
			return list(a, form, l.Items, "no images", []column[image]{
				{name: "IMAGE", text: func(i image) string { return i.Name }},
				{name: "STATE", text: func(i image) string { return string(i.State) }, paint: func(i image) string { return paintState(string(i.State)) }},
				{name: "SIZE", text: func(i image) string {
					if i.Bytes == 0 {
						return ""
					}
					return dspool.FormatBytes(i.Bytes)
				}, raw: func(i image) string { return strconv.FormatInt(i.Bytes, 10) }, right: true},
				{name: "BUILT", text: func(i image) string { return a.agoPtr(i.Built) }, raw: func(i image) string { return rawTime(i.Built) }},
				{name: "RECIPE", text: func(i image) string { return i.Recipe }},
				{name: "REASON", text: func(i image) string { return cut(i.Reason.Text, 100) }, raw: func(i image) string { return i.Reason.Text }},
			}...)
		})), &form)
}

func (a *app) imageRemove() *cobra.Command {
	cmd := command("remove IMAGE", "Remove an image's files", "Its recipe stays, and a build brings it back. An image that machines use is not removed.",
		"dspool image remove UbuntuDSVM", positional(1, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.RemoveImage(ctx, args[0]); err != nil {
				return err
			}
			a.say("image %s is removed", args[0])
			return nil
		}))
	cmd.ValidArgsFunction = a.completion(1, imageNames)
	return cmd
}
