# figures.mk -- a target for every figure and table of the paper (numbers of arXiv v1), claims, report.
#
#   make figures PROFILE=cpu|quick|paper   the scale of what is measured on this machine
#   make fig8 DATA=recorded                draw what was recorded elsewhere, measure nothing
#   make fig8 TERM=dumb                    draw into the terminal

SCALE = $(or $(PROFILE),$(if $(and $(filter 1,$(WITH_CUDA)),$(wildcard /dev/nvidiactl)),quick,cpu))

FIGURES := fig1 fig2 fig3 fig4 fig5 fig6 fig7 fig8 fig9 fig10 fig11 fig12 fig13 fig14 fig15 fig16 fig17 fig18 fig19 \
           fig20 fig21 fig22 fig23
TABLES := table1 table2 table3 table4 table5 table6 table7 table8

# TERM counts only when it is given to make: every shell has one.
MAKE_SH = PROFILE='$(SCALE)' DATA='$(or $(DATA),all)' B='$(B)' DUMB=$(if $(filter command,$(origin TERM)),$(if $(filter dumb,$(TERM)),1,0),0) figures/make.sh

##@ Figures, tables, report
.PHONY: figures tables claims report smoke $(FIGURES) $(TABLES)

figures: $(B)/longca ## measure what is missing and draw every figure (PROFILE=cpu|quick|paper, DATA=recorded)
	$(Q)$(MAKE_SH) $(FIGURES)

tables: $(B)/longca ## every table, the printed numbers beside ours
	$(Q)$(MAKE_SH) $(TABLES)

$(FIGURES) $(TABLES): $(B)/longca
	$(Q)$(MAKE_SH) $@

claims: $(B)/longca ## a verdict on each of the 26 claims, for each machine measured
	$(Q)$(MAKE_SH) claims

report: $(B)/longca ## paper/out/index.html: every figure, table and claim on one page, from what is measured
	$(Q)$(MAKE_SH) report

smoke: $(B)/longca ## the whole path on tiny sizes, under two minutes
	$(Q)PROFILE=smoke DATA=fresh B='$(B)' figures/make.sh fig1 fig2 fig3 fig6 fig7 fig8 fig15 table1 table2 table3 table5 claims report
	$(Q)LONGCA=$(B)/longca figures/check.sh $$(ls -t data/fresh/*/smoke.csv | head -1) fig3 fig8
