package browser_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/storage"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// pageTimeout is how long a page may take to become what somebody waits for, on a busy computer.
const pageTimeout = 60 * time.Second

// browserProcess is one Chromium; every person before it has a browser context of their own, with its own cookies.
type browserProcess struct {
	ctx    context.Context
	cancel []context.CancelFunc
}

func newBrowser(ctx context.Context, dir string) (*browserProcess, error) {
	b := &browserProcess{}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, // it runs as root, and what it visits is of these tests
		chromedp.UserDataDir(filepath.Join(dir, "chromium")), chromedp.WindowSize(int(desk[0]), int(desk[1])))
	ctx, cancel := chromedp.NewExecAllocator(ctx, options...)
	b.cancel = append(b.cancel, cancel)
	b.ctx, cancel = chromedp.NewContext(ctx)
	b.cancel = append(b.cancel, cancel)
	return b, chromedp.Do(b.ctx)
}

func (b *browserProcess) close() error {
	err := chromedp.Cancel(b.ctx)
	for i := len(b.cancel) - 1; i >= 0; i-- {
		b.cancel[i]()
	}
	return err
}

// person is somebody before a browser of their own.
type person struct {
	*tab
	name string
	tabs []*tab
}

// tab is a page that somebody looks at.
type tab struct {
	t      *testing.T
	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	said     []string // by the page's console
	answered []answer
}

// answer is what a server said to a request of the page.
type answer struct {
	url    string
	status int64
}

// visitor opens a browser that has been nowhere: whatever its person's name, it is logged in nowhere.
func visitor(t *testing.T, name string) *person {
	t.Helper()
	return visitorOf(t, chrome, name)
}

func visitorOf(t *testing.T, b *browserProcess, name string) *person {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	p := &person{name: name}
	p.tab = p.opened(t, ctx, cancel)
	t.Cleanup(func() {
		if t.Failed() {
			for i, tab := range p.tabs {
				tab.tell(fmt.Sprintf("%s-%d", name, i))
			}
		}
	})
	return p
}

// another opens a further tab of the same browser.
func (p *person) another() *tab {
	p.t.Helper()
	ctx, cancel := chromedp.NewContext(p.tab.ctx)
	p.t.Cleanup(cancel)
	return p.opened(p.t, ctx, cancel)
}

func (p *person) opened(t *testing.T, ctx context.Context, cancel context.CancelFunc) *tab {
	t.Helper()
	b := &tab{t: t, ctx: ctx, cancel: cancel}
	err := errors.Join(chromedp.Listen(ctx, b.listen),
		call(ctx, network.Enable, network.EnableParams{}), call(ctx, runtime.Enable, cdp.Empty{}), call(ctx, page.Enable, page.EnableParams{}),
		call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "light"}}}))
	if err != nil {
		t.Fatal("open a tab: ", err)
	}
	p.tabs = append(p.tabs, b)
	return b
}

// shut closes the tab, as somebody does who goes home.
func (b *tab) shut() { b.cancel() }

func call[P, R any](ctx context.Context, command cdp.Command[P, R], params P) error {
	_, err := chromedp.Call(ctx, command, params)
	return err
}

func (b *tab) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		var words []string
		for _, a := range e.Args {
			words = append(words, strings.Trim(string(a.Value), `"`)+a.Description)
		}
		b.said = append(b.said, string(e.Type)+": "+strings.Join(words, " "))
	case *runtime.EventExceptionThrown:
		b.said = append(b.said, "exception: "+e.ExceptionDetails.Text)
	case *network.EventResponseReceived:
		b.answered = append(b.answered, answer{e.Response.URL, e.Response.Status})
	case *page.EventJavascriptDialogOpening:
		b.said = append(b.said, "dialog: "+e.Message)
		go func() { _ = call(b.ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: true}) }()
	}
}

// tell keeps what a person saw when a test failed.
func (b *tab) tell(name string) {
	if b.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
	defer cancel()
	file := filepath.Join(os.TempDir(), "dspool-failed-"+strings.ReplaceAll(b.t.Name(), "/", "-")+"-"+name+".png")
	where, _ := chromedp.Run(ctx, chromedp.Location())
	text, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body ? document.body.innerText.slice(0, 3000) : ""`))
	picture, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(file, picture, 0o644)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.t.Logf("the browser was at %s (picture %s, %v):\n%s\nits console:\n%s", where, file, err, text, strings.Join(b.said[max(0, len(b.said)-20):], "\n"))
	for _, a := range b.answered[max(0, len(b.answered)-25):] {
		b.t.Logf("  %d %s", a.status, a.url)
	}
}

func (b *tab) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, pageTimeout)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

// open goes to an address and waits until its page has loaded.
func (b *tab) open(url string) {
	b.t.Helper()
	for {
		ctx, cancel := context.WithTimeout(b.ctx, pageTimeout)
		err := chromedp.Do(ctx, chromedp.Navigate(url))
		cancel()
		if err == nil {
			return
		}
		// Chromium drops connections when an address of its host comes or goes, such as another pool's.
		if !strings.Contains(err.Error(), "ERR_NETWORK_CHANGED") {
			b.t.Fatalf("open %s: %v", url, err)
		}
	}
}

// click clicks on what a CSS selector names once it is visible.
func (b *tab) click(selector string) {
	b.t.Helper()
	b.do("click "+selector, chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// fill sets a field of a form.
func (b *tab) fill(selector, value string) {
	b.t.Helper()
	b.do("fill "+selector, chromedp.SetValue(chromedp.CSS(selector), value, chromedp.NodeVisible))
}

// typed types text where the focus is, all at once as from a clipboard.
func (b *tab) typed(text string) {
	b.t.Helper()
	b.do("type", chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, input.InsertText, input.InsertTextParams{Text: text})
		return err
	}))
}

// keys presses keys, one by one.
func (b *tab) keys(keys string, modifiers ...kb.Modifier) {
	b.t.Helper()
	b.do("press keys", chromedp.KeyEvent(keys, chromedp.KeyModifiers(modifiers...)))
}

// eval runs an expression in a page and waits for it if it is a promise.
func eval[T any](b *tab, js string) (T, error) {
	return evalWithin[T](b, pageTimeout, js)
}

func evalWithin[T any](b *tab, most time.Duration, js string) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, most)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
}

// must is eval that has to work.
func must[T any](b *tab, js string) T {
	b.t.Helper()
	v, err := eval[T](b, js)
	if err != nil {
		b.t.Fatalf("in the page: %v\n%s", err, js)
	}
	return v
}

// until waits until an expression in the page is true, over all navigations and reloads on the way.
func (b *tab) until(what, js string) {
	b.t.Helper()
	b.within(pageTimeout, what, js)
}

func (b *tab) within(most time.Duration, what, js string) {
	b.t.Helper()
	err := eventually(most, func() error {
		ok, err := evalWithin[bool](b, 5*time.Second, `!!(`+js+`)`)
		switch {
		case b.ctx.Err() != nil:
			return final{b.ctx.Err()}
		case err != nil:
			return err
		case !ok:
			return errors.New("it did not come")
		}
		return nil
	})
	if err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

// at waits until the address of the page begins so.
func (b *tab) at(prefix string) {
	b.t.Helper()
	b.until("come to "+prefix, `location.href.startsWith(`+quote(prefix)+`) && document.readyState == "complete"`)
}

// text is what the page shows.
func (b *tab) text() string {
	b.t.Helper()
	return must[string](b, `document.body.innerText`)
}

// statuses are those of answers to requests whose URL contains a part, so far.
func (b *tab) statuses(part string) (all []int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.answered {
		if strings.Contains(a.url, part) {
			all = append(all, a.status)
		}
	}
	return all
}

// cookies are all that the browser keeps, of all sites.
func (p *person) cookies() []*network.Cookie {
	p.t.Helper()
	all, err := chromedp.CallBrowser(p.ctx, storage.GetCookies, storage.GetCookiesParams{BrowserContextID: chromedp.FromContext(p.ctx).BrowserContextID})
	if err != nil {
		p.t.Fatal("read the browser's cookies: ", err)
	}
	return all.Cookies
}

// downloads lets the browser keep files in a new folder and returns it.
func (p *person) downloads() string {
	p.t.Helper()
	dir := p.t.TempDir()
	_, err := chromedp.CallBrowser(p.ctx, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{
		Behavior: browser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir, BrowserContextID: chromedp.FromContext(p.ctx).BrowserContextID,
	})
	if err != nil {
		p.t.Fatal("allow downloads: ", err)
	}
	return dir
}

// quote writes a string as JavaScript.
func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}
