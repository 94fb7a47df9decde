module ipvs.dev/lab/web

go 1.26.0
