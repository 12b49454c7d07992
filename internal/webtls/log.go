package webtls

import (
	"context"
	"log/slog"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapTo makes a logger of the ACME library's kind that writes to ours, as what is of interest only to
// somebody who looks for a fault: the library says everything several times, and a failed renewal again
// with every browser. What it comes to is said by acme itself.
func zapTo(log *slog.Logger) *zap.Logger { return zap.New(bridge{log: log}) }

type bridge struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func (b bridge) Enabled(zapcore.Level) bool {
	return b.log.Enabled(context.Background(), slog.LevelDebug)
}

func (b bridge) With(fields []zapcore.Field) zapcore.Core {
	return bridge{b.log, slices.Concat(b.fields, fields)}
}

func (b bridge) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return c.AddCore(e, b)
	}
	return c
}

func (b bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	for _, f := range slices.Concat(b.fields, fields) {
		f.AddTo(values)
	}
	var attrs []slog.Attr
	for key, value := range values.Fields {
		attrs = append(attrs, slog.Any(key, value))
	}
	slices.SortFunc(attrs, func(x, y slog.Attr) int {
		if x.Key < y.Key {
			return -1
		}
		return 1
	})
	b.log.LogAttrs(context.Background(), slog.LevelDebug, "acme: "+e.Message, attrs...)
	return nil
}

func (bridge) Sync() error { return nil }
