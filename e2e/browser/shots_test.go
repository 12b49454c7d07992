package browser_test

import (
	"bytes"
	"context"
	"image/color"
	"image/png"
	"os"
	"path/filepath"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// Sizes of pictures.
var (
	desk  = [2]int64{1280, 800}
	phone = [2]int64{390, 844}
)

// shot takes a picture of what the tab shows, in docs/screenshots where DSPOOL_SCREENSHOTS says so.
func (b *tab) shot(name string, size [2]int64) {
	b.t.Helper()
	dir := b.t.TempDir()
	if os.Getenv("DSPOOL_SCREENSHOTS") == "1" {
		dir = "../../docs/screenshots"
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	b.do("size the page", chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: size[0], Height: size[1], DeviceScaleFactor: 1, Mobile: size == phone})
		return err
	}))
	ctx, cancel := context.WithTimeout(b.ctx, pageTimeout)
	defer cancel()
	raw, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatalf("take the picture %s: %v", name, err)
	}
	img, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		b.t.Fatal(err)
	}
	seen := map[color.Color]bool{}
	for y := img.Bounds().Min.Y; y < img.Bounds().Max.Y; y += 4 {
		for x := img.Bounds().Min.X; x < img.Bounds().Max.X; x += 4 {
			seen[img.At(x, y)] = true
		}
	}
	if len(seen) < 5 {
		b.t.Errorf("the picture %s shows nothing: it has %d colours", name, len(seen))
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), raw, 0o644); err != nil {
		b.t.Fatal(err)
	}
	b.do("undo the size", chromedp.ResetViewport())
}
