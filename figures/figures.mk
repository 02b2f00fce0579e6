# figures.mk -- a target for every figure and table of the paper (numbers of arXiv v1), claims, report.
#
#   make figures PROFILE=cpu|quick|paper   the scale of what is measured on this machine
#   make fig8 DATA=recorded                draw what was recorded elsewhere, measure nothing
#   make fig8 TERM=dumb                    draw into the terminal

SCALE = $(or $(PROFILE),$(if $(and $(filter 1,$(WITH_CUDA)),$(wildcard /dev/nvidiactl)),quick,cpu))

FIGURES := $(addprefix fig,1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23)
OPEN := open_a open_b open_c open_c_rate open_d
TABLES := $(addprefix table,1 2 3 4 5 6 7 8)

# TERM counts only when it is given to make: every shell has one.
MAKE_SH = PROFILE='$(SCALE)' DATA='$(or $(DATA),all)' B='$(B)' DUMB=$(if $(filter command,$(origin TERM)),$(if $(filter dumb,$(TERM)),1,0),0) figures/make.sh

##@ Figures, tables, report
.PHONY: figures tables claims report smoke open $(FIGURES) $(TABLES) $(OPEN)

figures: $(B)/longca ## measure what is missing and draw every figure (PROFILE=cpu|quick|paper, DATA=recorded)
	$(Q)$(MAKE_SH) $(FIGURES)

tables: $(B)/longca ## every table, the printed numbers beside ours
	$(Q)$(MAKE_SH) $(TABLES)

open: $(B)/longca ## what the paper leaves open: block-sparse backward, any mask on any rank, compact masks, variable blocks
	$(Q)$(MAKE_SH) $(OPEN)

$(FIGURES) $(TABLES) $(OPEN): $(B)/longca
	$(Q)$(MAKE_SH) $@

claims: $(B)/longca ## a verdict on each of the 26 claims, for each machine measured
	$(Q)$(MAKE_SH) claims

report: $(B)/longca ## paper/out/index.html: every figure, table and claim on one page, from what is measured
	$(Q)$(MAKE_SH) report

smoke: $(B)/longca ## the whole path on tiny sizes, under two minutes
	$(Q)PROFILE=smoke DATA=fresh B='$(B)' figures/make.sh fig1 fig2 fig3 fig6 fig7 fig8 fig15 table1 table2 table3 table5 claims report
	$(Q)LONGCA=$(B)/longca figures/check.sh $$(ls -t data/fresh/*/smoke.csv | head -1) fig3 fig8
